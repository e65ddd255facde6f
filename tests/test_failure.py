"""What is said where a run of one rank fails; several ranks are in tests/scripts/test_ends.py."""

from __future__ import annotations

import errno
import os
import subprocess
import sys

import pytest
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

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


def test_torchruns_own_report_ends_with_the_line(tmp_path, monkeypatch):
    """As torchrun reads it, where it is not tokenkit's launcher."""
    file = tmp_path / "error.json"
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(file))
    statement = "from tokenkit.errors import ConfigError; raise ConfigError('loss.names = 5')"
    assert outcome(statement) == (2, "error: loss.names = 5\n")
    failure = ProcessFailure(local_rank=0, pid=1, exitcode=2, error_file=str(file))
    report = str(ChildFailedError("train.py", {0: failure})).splitlines()
    assert report[-2] == "  traceback : error: loss.names = 5"


def test_defects_have_a_traceback():
    code, said = outcome("raise KeyError('x')")
    assert code == 1 and "Traceback" in said


def test_interrupted():
    assert outcome("raise KeyboardInterrupt") == (130, "")


def test_a_full_disk_is_tried_again_and_may_have_space_then(tmp_path):
    restart = "int(__import__('os').environ['TORCHELASTIC_RESTART_COUNT'])"
    body = f"if {restart} == 0: raise OSError(28, 'full', 'x')\n    print('went on')"
    (tmp_path / "program.py").write_text(PROGRAM.format(body))
    done = subprocess.run(
        [sys.executable, "-m", "tokenkit.launcher", "--max-restarts=1", "program.py"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": ROOT}, capture_output=True, text=True,
        timeout=120,
    )  # fmt: skip
    assert done.returncode == 0 and done.stdout == "went on\n", done.stderr
    assert done.stderr.startswith("error: 'x' cannot be read or written")


@pytest.mark.parametrize("end", ["pass", "raise KeyError('x')"])
def test_the_end_of_a_rank_meets_no_look_at_the_store(end, tmp_path):
    """One that Python's end meets aborts the process; here there is always one under way."""
    body = f"failure.LOOK_EVERY = 0.0; failure.watch_for_failures(); time.sleep(0.5); {end}"
    program = PROGRAM.format(body).replace(
        "from", "import time\nfrom tokenkit import failure\nfrom", 1
    )
    (tmp_path / "program.py").write_text(program)
    done = subprocess.run(
        [sys.executable, "-m", "tokenkit.launcher", "program.py"], cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": ROOT}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == (0 if end == "pass" else 1)
    assert "terminate" not in done.stderr and "SIGABRT" not in done.stderr
