"""The quickstart in tiny sizes, from its corpus to the sample; a second run reuses the first."""

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
def test_twice(tmp_path):
    # From another folder, with a relative output: paths must not depend on where it is started.
    first = quickstart(Path("made"), tmp_path)
    assert first.returncode == 0, first.stdout[-2000:] + first.stderr[-2000:]
    assert "gap closed:" in first.stdout and "tensorboard --logdir" in first.stdout
    assert (tmp_path / "made" / "student" / "model.safetensors").is_file()
    rows = (tmp_path / "made" / "corpus" / "train.jsonl").read_text().splitlines()
    assert all(json.loads(row)["text"] for row in rows)

    second = quickstart(Path("made"), tmp_path)
    assert second.returncode == 0, second.stderr[-2000:]
    assert "tokenkit export" in first.stdout
    assert "tokenkit export" not in second.stdout  # finished stages are reused

    def table(text: str) -> list[str]:
        return [line for line in text.splitlines() if "tokenizer" in line and "$" not in line][-3:]

    assert table(second.stdout) == table(first.stdout)

    # The hypernetwork starts from the model that is there.
    third = quickstart(Path("made"), tmp_path, "--zett")
    assert third.returncode == 0, third.stdout[-2000:] + third.stderr[-2000:]
    methods = ("random", "mean", "focus", "omp", "fvt", "hypernetwork")
    assert all(f"tokenizer B, {method} " in third.stdout for method in methods)
    assert (tmp_path / "made" / "zero_shot_hypernet" / "model.safetensors").is_file()

    # And bytes, too.
    fourth = quickstart(Path("made"), tmp_path, "--bytes")
    assert fourth.returncode == 0, fourth.stdout[-2000:] + fourth.stderr[-2000:]
    rows = ("teacher (tokenizer A)", "zero-shot (bytes)", "after transfer (bytes)")
    assert all(f"{row} " in fourth.stdout for row in rows)
    assert (tmp_path / "made" / "student_bytes" / "modeling_expanded.py").is_file()
