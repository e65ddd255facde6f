"""run_train.sh both ways, on the debug configuration as it is shipped."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.launch import free_port, read_losses

ROOT = Path(__file__).parents[2]
ARGUMENTS = ["--job.config_file", "train_configs/debug.toml", "--training.steps", "2"]


@pytest.mark.parametrize("way", ["bash", "torchrun"])
def test_both_ways_train(way, tmp_path):
    environment = {**os.environ, "NGPU": "2", "OMP_NUM_THREADS": "1", "PYTHON": sys.executable}
    command = ["bash", "run_train.sh"]
    if way == "torchrun":
        options = ["--nnodes=1", "--nproc-per-node=2", f"--master-port={free_port()}"]
        command = [sys.executable, "-m", "torch.distributed.run", *options, "run_train.sh"]
    done = subprocess.run(
        [*command, *ARGUMENTS, "--job.output_dir", str(tmp_path)],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=180,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(read_losses(tmp_path)) == 2
