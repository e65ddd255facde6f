"""Counting tokens of a corpus: exact, whatever the shards, the processes and the interruptions."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest

from tests.launch import SPEC_A, SPEC_B
from tokenkit.data import token_counts
from tokenkit.data.json_files import JsonLines
from tokenkit.data.pieces import pieces
from tokenkit.data.read_row import RowFormat
from tokenkit.data.token_counts import Corpus, count_corpus, count_shard
from tokenkit.errors import DataError
from tokenkit.tokenizers import load_tokenizer


@pytest.fixture(scope="module")
def toks():
    return [load_tokenizer(SPEC_A), load_tokenizer(SPEC_B)]


def texts_of(path):
    for line in path.read_text().splitlines():
        row = json.loads(line)
        yield row.get("text") or "\n".join(m["content"] for m in row["messages"])


def test_counts_are_those_of_each_text(texts_file, tmp_path, toks):
    found = count_corpus(toks, Corpus((str(texts_file),)), tmp_path / "c", shard_rows=7)
    texts = list(texts_of(texts_file))
    for tok, counts in zip(toks, found.tokens, strict=True):
        expected = Counter(i for text in texts for i in tok.encode(text).tolist())
        assert counts.shape == (len(tok),) and counts.dtype == np.int64
        assert {int(i): int(counts[i]) for i in np.flatnonzero(counts)} == expected
    assert (found.texts, found.size) == (40, sum(len(text.encode()) for text in texts))


@pytest.mark.slow
def test_processes_count_the_same(texts_file, tmp_path, toks):
    corpus = Corpus((str(texts_file), str(texts_file)))
    alone = count_corpus(toks, corpus, tmp_path / "1", workers=1, shard_rows=9)
    together = count_corpus(toks, corpus, tmp_path / "2", workers=2, shard_rows=9)
    assert (alone.texts, alone.size) == (together.texts, together.size) == (80, alone.size)
    for a, b in zip(alone.tokens, together.tokens, strict=True):
        np.testing.assert_array_equal(a, b)


def test_goes_on_after_the_finished_shards(texts_file, tmp_path, toks, monkeypatch):
    corpus, folder = Corpus((str(texts_file),)), tmp_path / "c"
    expected = count_corpus(toks, corpus, tmp_path / "whole", shard_rows=10)
    counted = []

    def breaks_off(toks, source, shard, row_format):
        if len(counted) == 2:
            raise KeyboardInterrupt
        counted.append(shard.start)
        return count_shard(toks, source, shard, row_format)

    monkeypatch.setattr(token_counts, "count_shard", breaks_off)
    with pytest.raises(KeyboardInterrupt):
        count_corpus(toks, corpus, folder, shard_rows=10)
    assert counted == [0, 10]
    counted[:] = [None]
    with pytest.raises(KeyboardInterrupt):
        count_corpus(toks, corpus, folder, shard_rows=10)
    assert counted == [None, 20]
    counted.clear()
    found = count_corpus(toks, corpus, folder, shard_rows=10)
    assert counted == [30]
    assert (found.texts, found.size) == (expected.texts, expected.size)
    for a, b in zip(found.tokens, expected.tokens, strict=True):
        np.testing.assert_array_equal(a, b)


def test_other_arguments_are_refused(texts_file, tmp_path, toks):
    corpus, folder = Corpus((str(texts_file),)), tmp_path / "c"
    count_corpus(toks, corpus, folder, shard_rows=10)
    with pytest.raises(DataError, match="other arguments .shard_rows was 10, is 11"):
        count_corpus(toks, corpus, folder, shard_rows=11)
    with pytest.raises(DataError, match="other arguments .tokenizers was"):
        count_corpus(toks[::-1], corpus, folder, shard_rows=10)
    with pytest.raises(DataError, match="other arguments .row_format was"):
        other = Corpus(corpus.names, row_format=RowFormat(messages_field="turns"))
        count_corpus(toks, other, folder, shard_rows=10)


def test_a_changed_file_is_refused(tmp_path, toks):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "one"}\n')
    count_corpus(toks, Corpus((str(path),)), tmp_path / "c")
    path.write_text('{"text": "three"}\n')
    with pytest.raises(DataError, match="other arguments .sizes was"):
        count_corpus(toks, Corpus((str(path),)), tmp_path / "c")


def test_bad_data(tmp_path, toks):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "one"}\n{"txt": "two"}\n')
    with pytest.raises(DataError, match="a.jsonl:2: neither 'text' nor 'messages'"):
        count_corpus(toks, Corpus((str(path),)), tmp_path / "c")
    path.write_text('{"text": " "}\n{"text": ""}\n')
    with pytest.raises(DataError, match="no row has any text"):
        count_corpus(toks, Corpus((str(path),)), tmp_path / "d")


def test_a_worker_that_dies_is_one_error(texts_file, tmp_path, toks, monkeypatch):
    class Dying:
        def __init__(self, *_):
            raise token_counts.BrokenProcessPool

        submit = shutdown = __init__

    def executor(*_):
        pool = object.__new__(Dying)
        pool.shutdown = lambda **_: None
        return pool

    monkeypatch.setattr(token_counts, "ProcessPoolExecutor", executor)
    with pytest.raises(DataError, match="a counting process died"):
        count_corpus(toks, Corpus((str(texts_file),)), tmp_path / "c", workers=2, shard_rows=10)


def test_long_texts_are_cut_behind_newlines(monkeypatch, tmp_path, toks):
    monkeypatch.setattr(token_counts, "PIECE_CHARACTERS", 10)
    text = "one two\nthree\nfour five six seven\n\neight"
    cut = list(pieces(text, 10))
    assert cut == ["one two\n", "three\n", "four five ", "six seven\n", "\neight"]
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"text": text}))
    shard = token_counts.Shard(0, 0, 0, 1)
    found = count_shard(toks, JsonLines(path), shard, RowFormat())
    for tok, counts in zip(toks, found.tokens, strict=True):
        expected = Counter(i for piece in cut for i in tok.encode(piece).tolist())
        assert {int(i): int(counts[i]) for i in np.flatnonzero(counts)} == expected
