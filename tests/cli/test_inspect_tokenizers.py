"""inspect-tokenizers, run as a user runs it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.launch import SPEC_A, SPEC_B

SCRIPT = Path(__file__).parents[2] / "scripts" / "inspect_tokenizers.py"
TEXT = "Hello world,\n\tnaïve 🎉 text"


def run(*arguments):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, SCRIPT, SPEC_A, SPEC_B, *map(str, arguments)],
        capture_output=True, encoding="utf-8", env=environment, timeout=120,
    )  # fmt: skip


@pytest.mark.slow
def test_output(tmp_path):
    path = tmp_path / "text"
    path.write_text(TEXT, encoding="utf-8")
    done = run("--file", path)
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout  # not a terminal
    first, second, text, vocabulary, marker = done.stdout.strip().split("\n\n")
    for part, spec in ((first, SPEC_A), (second, SPEC_B)):
        name, shown = part.split("\n", 1)
        assert name == spec
        assert "␣" in shown and "↵" in shown and "⇥" in shown
    rows = [re.split(r"\s{2,}", line) for line in text.splitlines()[2:]]
    values = {name: pair for name, *pair in rows}
    assert values["bytes of the text"] == [str(len(TEXT.encode()))] * 2
    assert values["tokens in no chunk"] == ["0", "0"] and values["bytes differ"] == ["no", "no"]
    assert "in both" in vocabulary and "eot" in marker and "<|eot_id|>" in marker


@pytest.mark.slow
def test_bad_input_is_one_line(tmp_path):
    done = run("--file", tmp_path / "none")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"error: --file {tmp_path / 'none'}: not readable")
