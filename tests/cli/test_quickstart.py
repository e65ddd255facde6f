"""The quickstart in tiny sizes: its ways beside the plain one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def quickstart(folder: Path, cwd: Path, *more: str) -> subprocess.CompletedProcess:
    script = str(ROOT / "scripts/quickstart.py")
    command = [sys.executable, script, "--quick", "--output", folder, *more]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)


@pytest.mark.slow
def test_other_ways_from_the_same_teacher(tmp_path):
    """A hypernetwork, then bytes (the plain way runs, twice, in ``tests/test_wheel.py``)."""
    # From another folder, with a relative output: paths must not depend on where it is started.
    first = quickstart(Path("made"), tmp_path, "--zett")
    assert first.returncode == 0, first.stdout[-2000:] + first.stderr[-2000:]
    methods = ("random", "mean", "focus", "omp", "fvt", "hypernetwork")
    assert all(f"tokenizer B, {method} " in first.stdout for method in methods)
    assert (tmp_path / "made" / "zero_shot_hypernet" / "model.safetensors").is_file()
    rows = (tmp_path / "made" / "corpus" / "train.jsonl").read_text().splitlines()
    assert all(json.loads(row)["text"] for row in rows)

    trained = tmp_path / "made" / "pretrain" / "metrics.jsonl"
    before = trained.read_text()
    second = quickstart(Path("made"), tmp_path, "--bytes")
    assert second.returncode == 0, second.stdout[-2000:] + second.stderr[-2000:]
    rows = ("teacher (tokenizer A)", "zero-shot (bytes)", "after transfer (bytes)")
    assert all(f"{row} " in second.stdout for row in rows)
    assert before and trained.read_text() == before  # the teacher is the one that was there
    assert (tmp_path / "made" / "student_bytes" / "modeling_expanded.py").is_file()
