"""The MinED mapping against brute force, its file, and its script."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.launch import ROOT, TOKENIZERS
from tests.tokenizers.specs import tokenizer
from tokenkit.errors import TokenizerError
from tokenkit.tokenizers.pairs.mined import (
    compute_mined_mapping,
    load_mined_mapping,
    nearest_tokens,
    save_mined_mapping,
)


def edit_distance(a: str, b: str) -> int:
    """The textbook's table."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        previous, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (x != y))
    return row[-1]


WORDS = st.lists(st.text("abĠé", min_size=1, max_size=9), min_size=1, max_size=12)


@given(WORDS, WORDS)
@settings(max_examples=150, deadline=None)
def test_nearest_equals_brute_force(tokens, candidates):
    index, distance = nearest_tokens(tokens, candidates)
    for token, place, found in zip(tokens, index, distance, strict=True):
        all_distances = [edit_distance(token, c) for c in candidates]
        assert found == min(all_distances)
        assert place == max(k for k, d in enumerate(all_distances) if d == found)


def test_lengths_far_apart():
    index, distance = nearest_tokens(["a" * 400, "b"], ["a", "a" * 90])
    assert index.tolist() == [1, 0] and distance.tolist() == [310, 1]


def test_shared_tokens_map_to_each_other():
    teacher, student = tokenizer("spm:source=Gemma2"), tokenizer("bpe_a:source=Llama3")
    mapping = compute_mined_mapping(teacher, student)
    assert mapping.teacher_ids.dtype == np.int32 and len(mapping.teacher_ids) == len(student)
    for i, (j, distance) in enumerate(zip(mapping.teacher_ids, mapping.distances, strict=True)):
        token = student.tokens[i]
        assert edit_distance(token, teacher.tokens[j]) == distance
        assert (distance == 0) == (token in teacher.ids)
        assert distance or j == teacher.ids[token]


def test_file(tmp_path):
    teacher, student = tokenizer("bpe_a:source=Llama3"), tokenizer("bpe_b:source=Qwen2")
    path = tmp_path / "mapping.npz"
    with pytest.raises(TokenizerError, match="does not exist; write it with"):
        load_mined_mapping(path, teacher, student)
    mapping = compute_mined_mapping(teacher, student)
    save_mined_mapping(path, mapping, teacher, student)
    assert np.array_equal(load_mined_mapping(path, teacher, student), mapping.teacher_ids)
    with pytest.raises(TokenizerError, match="is of 703 student and 1505 teacher tokens"):
        load_mined_mapping(path, student, teacher)
    path.write_bytes(b"no archive")
    with pytest.raises(TokenizerError, match="is not a MinED mapping"):
        load_mined_mapping(path, teacher, student)


def test_script(tmp_path):
    command = [sys.executable, f"{ROOT}/scripts/compute_mined_mapping.py"]
    command += ["--teacher", f"{TOKENIZERS}/bpe_a:source=Llama3"]
    command += ["--student", f"{TOKENIZERS}/bpe_b:source=Qwen2"]
    command += ["--output", str(tmp_path / "map.npz"), "--workers", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "703 tokens onto 1,505" in done.stdout
    teacher, student = tokenizer("bpe_a:source=Llama3"), tokenizer("bpe_b:source=Qwen2")
    assert len(load_mined_mapping(tmp_path / "map.npz", teacher, student)) == 703
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 2 and "already exists" in again.stderr
