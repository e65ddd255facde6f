"""The quickstart in tiny sizes: its ways beside the plain one."""

from __future__ import annotations

import json

import pytest


@pytest.mark.slow
@pytest.mark.usefixtures("forked_stages")
def test_other_ways_from_the_same_teacher(script, tmp_path, monkeypatch, capsys):
    """A hypernetwork, then bytes (the plain way runs, twice, in ``tests/test_wheel.py``)."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)  # a relative output is meant from here
    script("quickstart", "--quick", "--output", "made", "--zett")
    printed = capsys.readouterr().out
    methods = ("random", "mean", "focus", "omp", "fvt", "hypernetwork")
    assert all(f"tokenizer B, {method} " in printed for method in methods)
    assert (tmp_path / "made" / "zero_shot_hypernet" / "model.safetensors").is_file()
    rows = (tmp_path / "made" / "corpus" / "train.jsonl").read_text().splitlines()
    assert all(json.loads(row)["text"] for row in rows)

    trained = tmp_path / "made" / "pretrain" / "metrics.jsonl"
    before = trained.read_text()
    monkeypatch.chdir(tmp_path)
    script("quickstart", "--quick", "--output", "made", "--bytes")
    printed = capsys.readouterr().out
    rows = ("teacher (tokenizer A)", "zero-shot (bytes)", "after transfer (bytes)")
    assert all(f"{row} " in printed for row in rows)
    assert before and trained.read_text() == before  # the teacher is the one that was there
    assert (tmp_path / "made" / "student_bytes" / "modeling_expanded.py").is_file()
