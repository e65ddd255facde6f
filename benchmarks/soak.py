"""A run that is killed again and again loses nothing: how much, measured.

    python benchmarks/soak.py [--quick] [--seed 0]

A small run is started by run_train.sh and killed at random moments (all processes, the launcher
alone, one rank alone; at the start, in a step, in a save), until it was killed often enough and may
end. One campaign keeps its layout, one changes between 1, 2 and 4 ranks, one is restarted by
torchrun itself. Each is compared with a run that nobody killed. The last line is JSON: ``kills``,
``lost_steps_max`` (at most ``interval``), ``weights_equal`` (bit for bit where the layout stays,
1e-6 where it changes), ``orphans`` (processes alive ten seconds after their launcher's death).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tokenkit.training.restore import load_run  # noqa: E402

STEPS, INTERVAL, BATCH = 80, 2, 8
KILLS = 21  # of all campaigns together
SECONDS, LAST = 210, 570  # of each of the first two campaigns, and of all, until runs may end
SETTINGS = [
    "--job.config_file", "train_configs/debug.toml", "--training.steps", str(STEPS),
    "--training.batch_size", str(BATCH), "--checkpoint.enable", "true",
    "--checkpoint.interval", str(INTERVAL), "--checkpoint.keep_latest_k", "3",
    "--metrics.log_interval", "1", "--metrics.tensorboard", "false",
    "--metrics.progress", "false", "--eval.interval", "0", "--data.num_workers", "1",
    # Adam divides by the gradient's own size: at the usual 1e-8 it turns rounding, which another
    # number of ranks does otherwise, into steps of full length.
    "--optimizer.eps", "0.1",
]  # fmt: skip


@dataclass
class Tally:
    """What a campaign found."""

    kills: int = 0
    lost: list[int] = field(default_factory=list)
    orphans: int = 0


def processes() -> dict[int, int]:
    """Parent of every process."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[0] not in "ZX":
            found[int(path.parent.name)] = int(fields[1])
    return found


def descendants(pid: int) -> list[int]:
    parents, found, todo = processes(), [], [pid]
    while todo:
        parent = todo.pop()
        children = [child for child, its in parents.items() if its == parent]
        found += children
        todo += children
    return found


class Life:
    """One start of the run."""

    def __init__(self, folder: Path, ranks: int, extra: list[str], restarts: int = 0) -> None:
        self.folder, self.log = folder, folder.with_suffix(".log")
        self.before = len(self.text)
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        command = [
            sys.executable, "-m", "tokenkit.launcher", "--standalone", f"--nproc-per-node={ranks}",
            f"--max-restarts={restarts}", "train.py", *SETTINGS, *extra,
            "--training.micro_batch_size", str(BATCH // ranks), "--job.output_dir", str(folder),
        ]  # fmt: skip
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=log, stderr=log, start_new_session=True
            )

    @property
    def text(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    @property
    def said(self) -> str:
        return self.text[self.before :]

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def wait_for_step(self, deadline: float) -> bool:
        """Whether this life has taken a step."""
        while self.running and time.time() < deadline:
            if re.search(r" step +\d+ ", self.said):
                return True
            time.sleep(0.02)
        return False

    def end(self, seconds: float) -> int:
        return self.process.wait(seconds)


def last_step(folder: Path) -> int:
    """Last one that was logged."""
    file = folder / "metrics.jsonl"
    steps = [0]
    for line in file.read_text().splitlines() if file.exists() else []:
        try:
            entry = json.loads(line)
        except ValueError:
            continue  # killed within the line
        steps += [entry["step"]] if "loss" in entry else []
    return steps[-1]


def kill(life: Life, how: str, tally: Tally) -> None:
    """SIGKILL, and count who is left over."""
    below = descendants(life.process.pid)
    ranks = [pid for pid in below if processes().get(pid) == life.process.pid]
    if how == "all":
        targets = [life.process.pid, *below]
    elif how == "launcher" or not ranks:
        targets = [life.process.pid]
    else:
        targets = [random.choice(ranks)]
    for pid in targets:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    tally.kills += 1
    if how == "rank":
        life.end(60)
    else:
        life.process.wait()
    deadline = time.time() + 10
    while time.time() < deadline and set(below) & set(processes()):
        time.sleep(0.05)
    tally.orphans += len(set(below) & set(processes()))


def campaign(folder: Path, layouts: list[int], kills: int, deadline: float) -> Tally:
    """Kill a run ``kills`` times, then let it end."""
    tally = Tally()
    known = 0
    while True:
        extra = ["--checkpoint.async_mode", random.choice(["async", "disabled"])]
        life = Life(folder, random.choice(layouts), extra)
        final = tally.kills >= kills or time.time() > deadline
        if not final and random.random() < 0.2:
            time.sleep(random.uniform(0.1, 8.0))  # at the start
        else:
            life.wait_for_step(time.time() + 120)
            resumed = re.search(r"resumed from \S*step-0*(\d+)", life.said)
            tally.lost.append(known - (int(resumed[1]) if resumed else 0))
            if not final:
                time.sleep(random.uniform(0.0, 1.2))
        if final or not life.running:
            code = life.end(300)
            assert code == 0, f"exit code {code}: {life.said[-2000:]}"
            return tally
        kill(life, random.choice(["all", "launcher", "rank"]), tally)
        known = max(known, last_step(folder))


def restarted_by_torchrun(folder: Path, kills: int, deadline: float) -> Tally:
    """Ranks are killed; the launcher starts them again."""
    tally = Tally()
    assert kills < STEPS // (2 * INTERVAL)
    known: list[int] = []
    life = Life(folder, 2, [], restarts=kills)
    for _ in range(kills):
        begin = last_step(folder)
        while life.running and last_step(folder) <= begin + INTERVAL:
            time.sleep(0.05)
        ranks = [p for p in descendants(life.process.pid) if processes().get(p) == life.process.pid]
        if not life.running or not ranks or time.time() > deadline:
            break
        os.kill(random.choice(ranks), signal.SIGKILL)
        tally.kills += 1
        known.append(last_step(folder))
        time.sleep(1.0)
    assert life.end(300) == 0, life.said[-2000:]
    resumed = map(int, re.findall(r"resumed from \S*step-0*(\d+)", life.said))
    tally.lost = [last - step for last, step in zip(known, resumed, strict=True)]
    return tally


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """Of the run's student."""
    student = load_run(folder)[2]
    return {name: p.detach() for name, p in student.named_parameters()}


def difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """Largest relative one of a tensor; 0 only if all are equal bit for bit."""
    worst = 0.0
    for name, a in one.items():
        if not torch.equal(a, other[name]):
            worst = max(worst, ((a - other[name]).norm() / a.norm()).item(), 1e-30)
    return worst


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="three kills a campaign")
    parser.add_argument("--kills", type=int, default=KILLS, help="of all campaigns together")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    kills = 9 if args.quick else args.kills
    share = round(0.38 * kills)
    random.seed(args.seed)
    begin = time.time()
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        assert Life(root / "whole", 2, []).end(300) == 0, (root / "whole.log").read_text()[-2000:]
        runs: dict[str, Tally] = {}
        for name, layouts in (("same", [2]), ("changing", [1, 2, 4])):
            runs[name] = campaign(root / name, layouts, share, time.time() + SECONDS)
        # Its lives are the shortest, so it has what the others had no time for.
        left = kills - sum(tally.kills for tally in runs.values())
        runs["restarted"] = restarted_by_torchrun(root / "restarted", left, begin + LAST)
        whole = weights(root / "whole")
        differences = {run: difference(whole, weights(root / run)) for run in runs}
    for run, tally in runs.items():
        print(
            f"{run:<10} {tally.kills} kills, steps lost {tally.lost}, {tally.orphans} orphans, "
            f"weights differ by {differences[run]:.1e}"
        )
    lost = [steps for tally in runs.values() for steps in tally.lost]
    equal = differences["same"] == differences["restarted"] == 0 and differences["changing"] < 1e-6
    result = {
        "kills": sum(tally.kills for tally in runs.values()),
        "lost_steps_max": max(lost),
        "interval": INTERVAL,
        "weights_equal": equal,
        "orphans": sum(tally.orphans for tally in runs.values()),
        "differences": differences,
        "minutes": round((time.time() - begin) / 60, 1),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
