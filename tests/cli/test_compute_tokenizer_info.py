"""compute-tokenizer-info, run as a user runs it."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.launch import SPEC_A, SPEC_B
from tokenkit.errors import DataError, TokenkitError
from tokenkit.tokenizers import load_pair_bias, load_tokenizer
from tokenkit.tokenizers.pairs.statistics import pair_bias, suffix_pairs, unigram_probabilities

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "compute_tokenizer_info.py"


@pytest.fixture
def run(monkeypatch, texts_file):
    """Run in this process; TokenkitErrors are raised."""
    monkeypatch.setenv("TOKENKIT_TRACEBACK", "1")

    def run(output, *more):
        monkeypatch.setattr(
            sys, "argv",
            [SCRIPT.name, "--teacher", SPEC_A, "--student", SPEC_B, "--data", str(texts_file),
             "--output", str(output), *more],
        )  # fmt: skip
        runpy.run_path(str(SCRIPT), run_name="__main__")

    return run


def read_counts(folder, side, size):
    counts = np.zeros(size, np.int64)
    for i, count in json.loads((folder / f"{side}_counts.json").read_text()).items():
        counts[int(i)] = count
    return counts


def test_everything_is_written_and_consistent(run, tmp_path, texts_file):
    output = tmp_path / "pair"
    run(output, "--additive", "1e-6", "--whitespace", "exact")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pair"]
    assert sorted(path.name for path in output.iterdir()) == [
        "bias1_matrix.npz", "bias2_matrix.npz", "info.json", "student_counts.json",
        "teacher_counts.json",
    ]  # fmt: skip
    toks = load_tokenizer(SPEC_A), load_tokenizer(SPEC_B)
    counts = [
        read_counts(output, s, len(t)) for s, t in zip(("teacher", "student"), toks, strict=True)
    ]
    info = json.loads((output / "info.json").read_text())
    assert info["teacher"] == SPEC_A and info["student"] == SPEC_B
    assert info["data"] == [str(texts_file)] and info["additive"] == 1e-6
    assert info["texts"] == 40 and info["whitespace"] == "exact"
    assert [info["teacher_tokens"], info["student_tokens"]] == [c.sum() for c in counts]
    assert info["pairs"] == len(suffix_pairs(*toks).teacher)
    loaded = load_pair_bias(output)
    probabilities = [unigram_probabilities(t, c, 1e-6) for t, c in zip(toks, counts, strict=True)]
    expected = pair_bias(*toks, *probabilities, blank_bias=None)
    assert (loaded.bias1 != expected.bias1).nnz == (loaded.bias2 != expected.bias2).nnz == 0


def test_an_output_that_exists_is_refused(run, tmp_path):
    (tmp_path / "pair").mkdir()
    (tmp_path / "pair" / "mine").touch()
    with pytest.raises(TokenkitError, match="already exists and is not empty"):
        run(tmp_path / "pair")


def test_a_folder_of_another_count_is_refused(run, tmp_path):
    shards = tmp_path / "pair.partial" / "shards"
    shards.mkdir(parents=True)
    (shards / "arguments.json").write_text('{"shard_rows": 3}')
    with pytest.raises(DataError, match="counts made with other arguments"):
        run(tmp_path / "pair")


def command(*arguments):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop("TOKENKIT_TRACEBACK", None)
    return subprocess.run(
        [sys.executable, SCRIPT, *map(str, arguments)],
        capture_output=True, text=True, env=environment, timeout=120,
    )  # fmt: skip


@pytest.mark.slow
def test_two_workers_as_a_process(run, tmp_path, texts_file):
    run(tmp_path / "one")
    done = command(
        "--teacher", SPEC_A, "--student", SPEC_B, "--data", texts_file,
        "--output", tmp_path / "two", "--workers", 2, "--shard-rows", 11,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for name in ("teacher_counts.json", "student_counts.json"):
        assert (tmp_path / "one" / name).read_text() == (tmp_path / "two" / name).read_text()
    one, two = load_pair_bias(tmp_path / "one"), load_pair_bias(tmp_path / "two")
    assert (one.bias1 != two.bias1).nnz == (one.bias2 != two.bias2).nnz == 0


@pytest.mark.slow
def test_bad_input_is_one_line(tmp_path):
    done = command(
        "--teacher", SPEC_A, "--student", SPEC_B, "--data", tmp_path / "none.jsonl",
        "--output", tmp_path / "out",
    )  # fmt: skip
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("error: ") and "none.jsonl" in done.stderr
    assert list(tmp_path.iterdir()) == []
