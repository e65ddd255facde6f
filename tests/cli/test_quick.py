"""Help and refusals answer at once: nothing that takes seconds is imported on the way to them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tokenkit.cli.main import COMMANDS

ROOT = Path(__file__).parents[2]
# torch is not among them: losses are registered, and settings checked, with it.
HEAVY = {"transformers", "tokenizers", "datasets", "torchdata", "tensorboard", "lm_eval"}
WITH_SETTINGS = ("train", "cache-teacher")


def imported(*arguments: str, code: int = 0) -> set[str]:
    """Top-level packages that a process of Python with these arguments imports."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop("TOKENKIT_TRACEBACK", None)
    command = [sys.executable, "-X", "importtime", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == code, done.stdout + done.stderr[-1000:]
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    return {line.rpartition("|")[2].strip().partition(".")[0] for line in lines}


def test_a_heavy_import_is_seen():
    assert "tokenizers" in imported("-c", "import tokenizers")


@pytest.mark.parametrize("way", [["-m", "tokenkit"], ["-m", "tokenkit", "--help"]], ids=str)
def test_overview(way):
    assert not imported(*way) & (HEAVY | {"torch", "numpy"})


@pytest.mark.parametrize("command", COMMANDS)
def test_help(command):
    unwanted = HEAVY if command in WITH_SETTINGS else HEAVY | {"torch"}
    assert not imported("-m", "tokenkit", command, "--help") & unwanted


@pytest.mark.parametrize(
    "arguments",
    [
        ["train.py", "--training.stepz", "3"],
        ["train.py", "--training.batch_size", "0"],
        ["train.py", "--job.config_file", "nowhere.toml"],
        ["-m", "tokenkit", "cache-teacher", "--output", "x", "--training.stepz", "3"],
    ],
    ids=" ".join,
)
def test_a_refused_setting(arguments):
    assert not imported(*arguments, code=2) & HEAVY


@pytest.mark.parametrize(
    "arguments",
    [
        ["exprot"],
        ["export", "--run", "x"],
        ["export", "--run", "x", "--output", "tests"],
        ["zett", "--output", "x"],
        ["transfer", "m", "--to", "t", "--output", "tests"],
        ["transfer", "m", "--to", "t", "--output", "x", "--own-texts", "0"],
        ["transfer", "m", "--to", "t", "--output", "x", "--stepz", "3"],
        ["zett", "--output", "tests", "--target", "t"],
        ["compute-mined-mapping", "--teacher", "a", "--student", "b", "--output", "README.md"],
        ["sample-texts", "--model", "m", "--output", "README.md"],
        ["inspect-tokenizers", "a", "b", "--file", "nowhere"],
    ],
    ids=" ".join,
)
def test_a_refused_option(arguments):
    assert not imported("-m", "tokenkit", *arguments, code=2) & (HEAVY | {"torch"})


def test_train_help():
    assert not imported("train.py", "--help") & HEAVY
