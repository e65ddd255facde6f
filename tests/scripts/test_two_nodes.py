"""Two launchers, as on two nodes: after one's rank was killed, both go on in the same new life."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.launch import ROOT, free_port, read_losses, read_metrics

STEPS = 30


def start(node: int, port: int, folder: Path) -> subprocess.Popen:
    """Nodes count restarts each for itself; ``overwrite`` holds for the first life."""
    command = [
        sys.executable, "-m", "tokenkit.launcher", "--nnodes=2", "--nproc-per-node=1",
        "--max-restarts=1", "--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{port}",
        "--rdzv-id=two", "train.py", "--job.config_file", "train_configs/debug.toml",
        "--training.steps", str(STEPS), "--checkpoint.enable", "true", "--checkpoint.interval", "3",
        "--checkpoint.overwrite", "true", "--metrics.progress", "false",
        "--metrics.tensorboard", "false", "--eval.interval", "0", "--job.output_dir", str(folder),
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    with folder.with_suffix(f".{node}.log").open("w") as log:
        return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_rank_of_the_second_node_is_killed(tmp_path):
    folder, port = tmp_path / "run", free_port()
    nodes = [start(node, port, folder) for node in (0, 1)]
    end = time.time() + 120
    while time.time() < end:
        if (folder / "metrics.jsonl").exists() and max(read_metrics(folder), default=0) >= 4:
            break
        time.sleep(0.1)
    (rank,) = Path(f"/proc/{nodes[1].pid}/task/{nodes[1].pid}/children").read_text().split()
    os.kill(int(rank), signal.SIGKILL)
    codes = [node.wait(120) for node in nodes]
    said = "".join(folder.with_suffix(f".{node}.log").read_text() for node in (0, 1))
    assert codes == [0, 0], said
    assert "resumed from" in said and len(read_losses(folder)) == STEPS
