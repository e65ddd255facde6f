"""What is said where a run of one rank fails; several ranks are in tests/scripts/test_ends.py."""

from __future__ import annotations

import errno
import os
import subprocess
import sys

import pytest

from tests.launch import ROOT

PROGRAM = "from tokenkit.failure import run_rank\ndef main():\n    {}\nrun_rank(main)\n"


def outcome(statement: str) -> tuple[int, str]:
    environment = {k: v for k, v in os.environ.items() if k != "TOKENKIT_TRACEBACK"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(statement)],
        env={**environment, "PYTHONPATH": ROOT}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    return done.returncode, done.stderr


@pytest.mark.parametrize("name", ["ENOSPC", "EROFS", "EIO", "ESTALE"])
def test_disks_that_fail_are_one_line(name):
    number = getattr(errno, name)
    code, said = outcome(f"raise OSError({number}, 'words', 'out/metrics.jsonl')")
    assert code == 2
    assert said == (
        "error: 'out/metrics.jsonl' cannot be read or written (words); checkpoints are whole, "
        "run again\n"
    )


def test_defects_have_a_traceback():
    code, said = outcome("raise KeyError('x')")
    assert code == 1 and "Traceback" in said


def test_interrupted():
    assert outcome("raise KeyboardInterrupt") == (130, "")
