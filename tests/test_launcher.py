"""Which command lines of torchrun are tokenkit's, and an interpreter without torch."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.launch import ROOT
from tokenkit.launcher import _starts_tokenkit


@pytest.mark.parametrize(
    ("arguments", "ours"),
    [
        (["--nproc-per-node", "2", f"{ROOT}/train.py", "--training.steps", "3"], True),
        (["--standalone", f"{ROOT}/run_train.sh"], True),
        (["--nproc-per-node=2", "-m", "tokenkit", "train"], True),
        (["--no-python", "bin/tokenkit", "train"], True),
        (["site/tokenkit/train.py"], True),
        (["train.py", "--of", f"{ROOT}/train.py"], False),
        (["train.py", "--name", "tokenkit"], False),
        (["-m", "others"], False),
        ([], False),
    ],
)
def test_programs(arguments, ours, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("train.py", "bin/tokenkit", "site/tokenkit/train.py", "site/tokenkit/launcher.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert _starts_tokenkit(arguments) is ours


def test_an_interpreter_without_torch_is_named(tmp_path):
    """run_train.sh takes python3 where no environment is active."""
    command = [sys.executable, "-S", "-m", "tokenkit.launcher", f"{ROOT}/train.py"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == (
        f"error: {sys.executable} has no torch: activate the environment that tokenkit is "
        "installed in, or name its interpreter (PYTHON=/path/to/python ./run_train.sh)\n"
    )
