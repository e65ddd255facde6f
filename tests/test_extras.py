"""Without its extras tokenkit trains, and says what to install where it needs one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# An import of these fails as if they were not installed.
WITHOUT = "import sys; sys.modules |= dict.fromkeys(['lm_eval', 'accelerate', 'tensorboard'])"
RUN = "from tokenkit.cli.main import main; main()"


def tokenkit(*arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", f"{WITHOUT}; {RUN}", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


@pytest.mark.slow
def test_training(tmp_path):
    output = ["--job.output_dir", tmp_path / "run", "--training.steps", 2]
    done = tokenkit("train", "--job.config_file", "debug", *output)
    assert done.returncode == 0, done.stderr[-2000:]
    advice = "pip install tensorboard; metrics.jsonl is written all the same"
    assert done.stderr.count(advice) == 1
    assert (tmp_path / "run" / "metrics.jsonl").read_text()
    assert not (tmp_path / "run" / "tensorboard").exists()


@pytest.mark.parametrize(
    ("arguments", "who"),
    [
        (["eval", "--model", "m", "--tasks", "piqa"], "tokenkit eval"),
        (["compare", "a", "b", "--data", "x", "--output", "y", "--tasks", "piqa"], "--tasks"),
        (["train", "--job.config_file", "debug", "--eval.tasks", "piqa"], 'eval.tasks = ["piqa"]'),
    ],
    ids=["eval", "compare", "train"],
)
def test_tasks(arguments, who):
    done = tokenkit(*arguments)
    assert done.returncode == 2
    advice = "the package lm_eval is not installed: pip install 'lm-eval<0.5' accelerate"
    assert done.stderr.strip().splitlines()[-1] == f"error: {who}: {advice}"
