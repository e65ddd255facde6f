"""The global order: every row once a pass, shares by weight, any position without the others."""

from __future__ import annotations

import logging
from collections import Counter

import numpy as np
import pytest

from tests.data.support import make_config, write_rows
from tokenkit.data import mixing
from tokenkit.data.mixing import build_order
from tokenkit.data.reader import Passed
from tokenkit.errors import ConfigError, DataError
from tokenkit.tokenizers import Conversation, Document

PLAIN = {"text_mode": "direct_encode_no_force_bos_no_force_eos"}


def letters(tmp_path, sizes):
    """A file of rows a0, a1, …, another of b0, b1, …, and so on."""
    return [
        write_rows(tmp_path / f"{letter}.jsonl", [{"text": f"{letter}{n}"} for n in range(size)])
        for letter, size in zip("abcdef", sizes, strict=False)
    ]


def order_of(files, **data):
    job = {"seed": data.pop("seed", 5)}
    return build_order(make_config(files, data=_names(files) | data, chat=PLAIN, job=job))


def _names(files):
    return {"train": [str(file) for file in files]}


def texts(order, begin, end):
    return [row.text for row in order.rows(range(begin, end))[0]]


@pytest.mark.parametrize("streaming", [False, True])
def test_every_row_once_a_pass(tmp_path, streaming):
    (file,) = letters(tmp_path, [50])
    order = order_of([file], streaming=streaming, shuffle_buffer=20)
    passes = [texts(order, k * 50, (k + 1) * 50) for k in range(3)]
    everything = sorted(f"a{n}" for n in range(50))
    assert all(sorted(one) == everything for one in passes)
    assert len({tuple(one) for one in passes}) == 3, "each pass has its own order"
    other = order_of([file], streaming=streaming, shuffle_buffer=20, seed=6)
    assert texts(other, 0, 50) != passes[0]


@pytest.mark.parametrize("streaming", [False, True])
def test_without_shuffling_rows_keep_their_order(tmp_path, streaming):
    order = order_of(letters(tmp_path, [5]), shuffle=False, streaming=streaming)
    assert texts(order, 0, 12) == [f"a{n % 5}" for n in range(12)]


def test_no_weights_means_by_size(tmp_path):
    order = order_of(letters(tmp_path, [30, 3, 7]))
    for begin in (0, 40):
        drawn = texts(order, begin, begin + 40)
        assert Counter(text[0] for text in drawn) == {"a": 30, "b": 3, "c": 7}
        assert len(set(drawn)) == 40


def test_no_weights_of_streams_means_equal_shares(tmp_path):
    order = order_of(letters(tmp_path, [30, 3]), streaming=True, shuffle_buffer=10)
    counts = Counter(text[0] for text in texts(order, 0, 4000))
    assert counts["a"] / 4000 == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("streaming", [False, True])
def test_weights_are_shares(tmp_path, streaming):
    files = letters(tmp_path, [40, 5, 9, 2])
    order = order_of(files, weights=[1.0, 6.0, 3.0, 0.0], streaming=streaming, shuffle_buffer=4)
    drawn = texts(order, 0, 10_000)
    counts = Counter(text[0] for text in drawn)
    assert [counts[c] / 10_000 for c in "abcd"] == pytest.approx([0.1, 0.6, 0.3, 0.0], abs=0.015)
    for letter, size in zip("abc", (40, 5, 9), strict=True):
        mine = [text for text in drawn if text[0] == letter]
        for begin in range(0, len(mine) - size, size):
            assert len(set(mine[begin : begin + size])) == size, "passes of a source are whole"


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("weights", [[], [1.0, 2.0]])
def test_any_position_without_the_others(tmp_path, monkeypatch, streaming, weights):
    monkeypatch.setattr(mixing, "BLOCK", 16)
    files = letters(tmp_path, [11, 7])
    options = {"weights": weights, "streaming": streaming, "shuffle_buffer": 5}
    expected = texts(order_of(files, **options), 0, 120)
    for begin in (0, 3, 16, 40, 64, 111):
        assert texts(order_of(files, **options), begin, begin + 9) == expected[begin : begin + 9]
    jumping = order_of(files, **options)
    for begin in (90, 100, 17, 15, 0):
        assert texts(jumping, begin, begin + 5) == expected[begin : begin + 5]


def test_seeking_is_fast(tmp_path):
    """A position a million steps away needs none of the rows before it."""
    order = order_of(letters(tmp_path, [11, 7]), weights=[1.0, 2.0])
    read = []
    for part in order.passes:
        monkey = part.source.read
        part.source.read = lambda index, monkey=monkey: read.append(index) or monkey(index)
    order.rows(range(1_000_000, 1_000_008))
    assert len(read) == 8


def test_empty_rows_give_way_to_others(tmp_path):
    rows = [{"text": f"a{n}" if n % 3 else ""} for n in range(30)]
    file = write_rows(tmp_path / "x.jsonl", rows)
    order = order_of([file])
    first, empty = order.rows(range(30))
    assert empty == Passed(empty=10)
    assert {row.text for row in first} == {f"a{n}" for n in range(30) if n % 3}
    assert order.rows(range(7, 9))[0] == first[7:9]
    # Stand-ins are spread over all other rows.
    many = Counter(texts(order, 0, 30_000))
    assert max(many.values()) / min(many.values()) < 1.25


def test_empty_rows_of_streams_are_dropped_and_reported_once(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("tokenkit"), "propagate", True)
    rows = [{"text": f"a{n}" if n % 3 else " "} for n in range(30)]
    order = order_of([write_rows(tmp_path / "x.jsonl", rows)], streaming=True, shuffle_buffer=4)
    order.announces = True
    first, empty = order.rows(range(20))
    assert sorted(row.text for row in first) == sorted(f"a{n}" for n in range(30) if n % 3)
    assert empty.empty in (9, 10) and not empty.bad
    order.rows(range(20, 60))
    said = [record.getMessage() for record in caplog.records]
    assert said == [f"data '{tmp_path}/x.jsonl': 10 of 30 rows are empty and were skipped"]


@pytest.mark.parametrize("streaming", [False, True])
def test_nothing_but_empty_rows_is_refused(tmp_path, streaming):
    file = write_rows(tmp_path / "x.jsonl", [{"text": ""}] * 3)
    with pytest.raises(DataError, match=r"x\.jsonl.*(all others.*empty|no rows with text)"):
        texts(order_of([file], streaming=streaming), 0, 1)


def test_weights_of_another_length_are_refused(tmp_path):
    files = letters(tmp_path, [3, 3])
    with pytest.raises(ConfigError, match="data.weights has 1 entries for 2"):
        order_of(files, weights=[1.0])
    with pytest.raises(ConfigError, match="data.train is empty"):
        order_of([])


def test_permutations_are_those_of_numpy(tmp_path):
    """The order is documented by what makes it: seed, number of the source, epoch."""
    order = order_of(letters(tmp_path, [9]), seed=3)
    expected = [f"a{n}" for k in (0, 1) for n in np.random.default_rng((3, 0, k)).permutation(9)]
    assert texts(order, 0, 18) == expected


@pytest.mark.parametrize("streaming", [False, True])
def test_rows_are_texts_or_conversations_that_know_their_place(tmp_path, streaming):
    chat = [{"role": "user", "content": "Hi."}]
    file = write_rows(tmp_path / "x.jsonl", [{"text": "a"}, {"messages": chat}])
    order = order_of([file], shuffle=False, streaming=streaming)
    rows, _ = order.rows(range(2))
    assert rows == [Document("a", bos=False, eos=False), Conversation(chat)]
    assert [row.where for row in rows] == [f"{file}:1", f"{file}:2"]
