"""``train.slurm``, with programs of SLURM's names in its place."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Runs the task that it is given as two ranks would see it, one after the other.
SRUN = """#!/bin/bash
echo "srun cpus=$SRUN_CPUS_PER_TASK" >> calls
shift
for task in 0 1; do
    SLURM_PROCID=$task SLURM_LOCALID=$task SLURM_NTASKS=2 "$@" || exit $?
done
[ -e waits ] || exit 0
trap 'echo saved >> calls; exit 0' USR1
for i in $(seq 100); do sleep 0.1; done
"""
SCONTROL = """#!/bin/bash
[ "$1" = show ] && printf 'node7\\nnode8\\n' || echo "scontrol $*" >> calls
"""
PYTHON = """#!/bin/bash
echo "rank $RANK of $WORLD_SIZE, local $LOCAL_RANK at $MASTER_ADDR:$MASTER_PORT: $*" >> calls
exit ${FAILS:-0}
"""


@pytest.fixture
def job(tmp_path):
    """Starts the script."""
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL), ("python3", PYTHON)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)

    def start(**more: str) -> subprocess.Popen:
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("MASTER", "SLURM"))}
        environment = {
            **inherited, "PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "123456",
            "SLURM_JOB_NODELIST": "node[7-8]", "SLURM_CPUS_PER_TASK": "6", **more,
        }  # fmt: skip
        script = str(ROOT / "scripts" / "train.slurm")
        return subprocess.Popen(["bash", script, "--x.y", "z"], cwd=tmp_path, env=environment)

    return start


def calls(folder: Path) -> list[str]:
    path = folder / "calls"
    return path.read_text().splitlines() if path.exists() else []


def test_ranks_meet_at_the_first_node(job, tmp_path):
    assert job().wait(20) == 0
    assert calls(tmp_path) == [
        "srun cpus=6",
        "rank 0 of 2, local 0 at node7:23456: train.py --x.y z",
        "rank 1 of 2, local 1 at node7:23456: train.py --x.y z",
    ]


def test_the_job_is_queued_again_before_the_time_limit(job, tmp_path):
    (tmp_path / "waits").touch()
    process = job()
    while len(calls(tmp_path)) < 3:
        time.sleep(0.05)
    time.sleep(0.3)
    process.send_signal(signal.SIGUSR1)
    assert process.wait(20) == 0
    assert calls(tmp_path)[3:] == ["saved", "scontrol requeue 123456"]


def test_a_failure_is_not(job, tmp_path):
    assert job(FAILS="2").wait(20) == 2
    assert len(calls(tmp_path)) == 2
