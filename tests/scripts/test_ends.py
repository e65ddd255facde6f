"""How a run of two ranks ends, started by run_train.sh: one line of error, or saved and told."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.launch import read_metrics
from tokenkit.training.checkpoint import list_steps

ROOT = Path(__file__).parents[2]
DEBUG = ["--job.config_file", "train_configs/debug.toml", "--metrics.progress", "false"]
ENDLESS = [
    "--checkpoint.enable", "true", "--training.steps", "5000", "--checkpoint.interval", "5000",
    "--metrics.log_interval", "1", "--metrics.tensorboard", "false", "--data.num_workers", "1",
]  # fmt: skip


class Started:
    """A run in the background."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.folder, self.log = folder, folder.with_suffix(".log")
        environment = {**os.environ, "NGPU": "2", "OMP_NUM_THREADS": "1", "PYTHON": sys.executable}
        environment.pop("TOKENKIT_TRACEBACK", None)
        environment["CUDA_VISIBLE_DEVICES"] = ""
        command = ["bash", "run_train.sh", *DEBUG, *arguments, "--job.output_dir", str(folder)]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT
            )

    def wait(self, seconds: float = 120) -> int:
        return self.process.wait(seconds)

    def wait_for_step(self, step: int) -> None:
        end = time.time() + 120
        while time.time() < end:
            file = self.folder / "metrics.jsonl"
            if file.exists() and max(read_metrics(self.folder), default=0) >= step:
                return
            assert self.process.poll() is None, self.text
            time.sleep(0.1)
        raise TimeoutError(self.text)

    @property
    def text(self) -> str:
        return self.log.read_text()

    @property
    def ranks(self) -> list[int]:
        """Process ids of the ranks."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return sorted(map(int, children.split()))


def test_refused_settings_are_one_line(tmp_path):
    started = Started(tmp_path / "run", "--training.steps", "x")
    assert started.wait() == 2
    assert started.text == 'error: command line: training.steps = "x": expected an integer\n'


def test_an_error_of_one_rank_is_shown_alone(tmp_path):
    """In the middle of training, at a row that one of two ranks reads."""
    rows = [{"text": f"Row {n} of some words."} for n in range(64)]
    lines = [json.dumps(row) for row in rows]
    lines[37] = '{"text": 5}'
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    data = ["--data.train", str(tmp_path / "rows.jsonl"), "--data.shuffle", "false"]
    data += ["--data.check", "false"]  # which would see it before the start
    started = Started(tmp_path / "run", *ENDLESS, *data)
    begin = None
    while started.process.poll() is None:
        if begin is None and "error:" in started.text:
            begin = time.time()
        time.sleep(0.1)
    assert started.process.returncode == 2
    assert begin is None or time.time() - begin < 10
    assert len(re.findall(r"^error: .*rows\.jsonl.*38", started.text, re.M)) == 1, started.text
    assert not re.search(r"Traceback|RuntimeError|torch\.distributed\.elastic", started.text)
    assert started.text.splitlines()[-1].startswith("error: "), started.text


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGUSR1"])
def test_stopped_by_a_signal_to_the_launcher(name, tmp_path):
    started = Started(tmp_path / "run", *ENDLESS)
    started.wait_for_step(2)
    started.process.send_signal(signal.Signals[name])
    number = signal.SIGTERM if name == "SIGUSR1" else signal.Signals[name]
    assert started.wait(30) == 128 + number, started.text
    (step,) = list_steps(tmp_path / "run" / "checkpoints")
    assert f"stopped at step {step} of 5000" in started.text, started.text
    assert "run again to go on" in started.text and "Traceback" not in started.text


def test_a_killed_rank_is_named(tmp_path):
    started = Started(tmp_path / "run", *ENDLESS)
    started.wait_for_step(2)
    os.kill(started.ranks[1], signal.SIGKILL)
    assert started.wait(10) == 137, started.text
    assert "error: rank 1 was ended by SIGKILL: out of memory?" in started.text
    assert "torch.distributed.elastic" not in started.text, started.text


def test_finished_run_says_so(tmp_path):
    arguments = [*ENDLESS, "--training.steps", "1"]
    for expected in (
        r"done: .*tokenkit export --run",
        r"already finished: step 1 of 1 in .*export",
    ):
        started = Started(tmp_path / "run", *arguments)
        assert started.wait() == 0, started.text
        assert re.search(expected, started.text.splitlines()[-1]), started.text


def test_a_hung_step_shows_where_it_is(tmp_path):
    (tmp_path / "slow.py").write_text(
        "import os, time\n"
        "from tokenkit.losses import LOSSES\n"
        "from tokenkit.losses.sft import SFT\n"
        "@LOSSES.register('slow')\n"
        "class Slow(SFT):\n"
        "    calls = 0\n"
        "    def forward(self, *args):\n"
        "        Slow.calls += 1\n"
        "        if Slow.calls > 60 and os.environ['RANK'] == '1':\n"
        "            time.sleep(1000)\n"
        "        return super().forward(*args)\n"
    )
    started = Started(
        tmp_path / "run", *ENDLESS, "--job.custom_import", str(tmp_path / "slow.py"),
        "--loss.names", "slow", "--loss.aggregation", "", "--loss.weights", "1",
        "--job.step_timeout_minutes", "0.1",
    )  # fmt: skip
    started.wait(90)
    assert 'slow.py", line 10 in forward' in started.text, started.text
