"""When a launcher dies, however suddenly, its ranks and their data workers die with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.launch import ROOT, read_losses
from tests.training.test_run_lock import wait_for_step
from tokenkit.processes import process_start

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


def descendants(pid: int) -> dict[int, str]:
    """Processes below one, with their starts."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    found, todo = {}, [pid]
    while todo:
        parent = todo.pop()
        children = [child for child, its in parents.items() if its == parent]
        found |= {child: process_start(child) for child in children}
        todo += children
    return found


def living(processes: dict[int, str]) -> list[int]:
    return [pid for pid, start in processes.items() if process_start(pid) == start]


def start_torchrun(argv: list[str], log: Path, *options: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += [*options, "train.py", *argv]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    with log.open("w") as file:
        return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=file, stderr=file)


@pytest.fixture
def arguments(base_arguments, tmp_path) -> list[str]:
    return [*base_arguments, "--job.output_dir", str(tmp_path / "run"),
            "--training.micro_batch_size", "4", "--data.num_workers", "1"]  # fmt: skip


@pytest.mark.slow
def test_a_killed_launcher_leaves_nobody(arguments, tmp_path):
    launcher = start_torchrun([*arguments, "--training.steps", "100000"], tmp_path / "log")
    try:
        wait_for_step(tmp_path / "run", 3)
        ours = descendants(launcher.pid)
        assert len(living(ours)) >= 4  # two ranks, a worker each
        launcher.kill()
        launcher.wait()
        end = time.time() + 15.0  # they take a step and leave
        while living(ours) and time.time() < end:
            time.sleep(0.05)
        assert not living(ours)
    finally:
        for pid in living(ours):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.slow
def test_a_restarted_life_takes_the_folder_over(arguments, tmp_path):
    """Of torchrun's own making: the launcher lives, the ranks are new."""
    argv = [*arguments, "--training.steps", "20", "--checkpoint.enable", "true",
            "--checkpoint.interval", "5"]  # fmt: skip
    launcher = start_torchrun(argv, tmp_path / "log", "--max-restarts=1")
    wait_for_step(tmp_path / "run", 7)
    ranks = [pid for pid in descendants(launcher.pid) if parent_of(pid) == launcher.pid]
    os.kill(ranks[0], signal.SIGKILL)
    launcher.wait(120)
    log = (tmp_path / "log").read_text()
    assert launcher.returncode == 0, log[-3000:]
    assert "taking over" in log and "resumed from" in log
    assert len(read_losses(tmp_path / "run")) == 20


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


@pytest.mark.parametrize(("launched", "stays"), [(True, False), (False, True)])
def test_only_a_launched_rank_ends(launched, stays):
    """One started by hand, in a shell that is closed, stays."""
    child = "from tokenkit.processes import *; end_with_launcher(); print(1, flush=True);"
    child += "import time; time.sleep(30)"
    parent = (
        "import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', sys.argv[1]],"
        "stdout=subprocess.PIPE); p.stdout.readline(); print(p.pid, flush=True)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("TORCHELASTIC_RUN_ID", None)
    if launched:
        environment["TORCHELASTIC_RUN_ID"] = "x"
    done = subprocess.run(
        [sys.executable, "-c", parent, child], env=environment, stdout=subprocess.PIPE, check=True
    )
    pid = int(done.stdout)
    time.sleep(0.5)
    alive = process_start(pid) is not None
    if alive:
        os.kill(pid, signal.SIGKILL)
    assert alive == stays


def test_without_the_kernel_a_thread_watches():
    code = (
        "import os, time; from tokenkit import processes; processes._ask_kernel = lambda _: False\n"
        "if os.fork() == 0:\n"
        "    if os.fork() == 0:\n"
        "        processes.end_with_parent(); print(os.getpid(), flush=True); os.close(1)\n"
        "        time.sleep(30)\n"
        "    time.sleep(0.5); os._exit(0)\n"
        "os.wait()\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, check=True
    )
    pid = int(done.stdout)
    time.sleep(1.5)
    assert process_start(pid) is None
