"""Ranges beside a plain walk over characters, bytes and tokens."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tokenkit.tokenizers.arrays import as_array
from tokenkit.tokenizers.ranges import to_bytes, tokens_inside

SIZE = 20
EDGES = st.tuples(st.integers(0, SIZE), st.integers(0, SIZE)).map(lambda pair: tuple(sorted(pair)))
# Tokens of a row one after another, some of no bytes; −1 for those whose place is not known.
TOKENS = st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=12)
ROW = st.tuples(st.one_of(st.none(), st.lists(EDGES, max_size=4)), TOKENS)


def places(tokens: list[tuple[int, bool]]) -> tuple[np.ndarray, np.ndarray]:
    lengths = np.array([length for length, _ in tokens], np.int64)
    known = np.array([flag for _, flag in tokens], bool)
    end = np.minimum(np.cumsum(lengths), SIZE)
    begin = np.append(0, end)[: len(end)]
    return np.where(known, begin, -1), np.where(known, end, -1)


def plainly_inside(ranges: list[tuple[int, int]], begin: int, end: int) -> bool:
    """A token of no bytes lies in what it touches."""
    if begin < 0:
        return False
    if begin == end:
        return any(a <= begin <= b for a, b in ranges)
    covered = {byte for a, b in ranges for byte in range(a, b)}
    return covered.issuperset(range(begin, end))


@given(st.lists(ROW, max_size=4))
def test_tokens_inside_ranges(rows) -> None:
    ranges = [spans for spans, _ in rows]
    located = [places(tokens) for _, tokens in rows]
    found = tokens_inside(ranges, located, [SIZE] * len(rows))
    for spans, (begin, end), inside in zip(ranges, located, found, strict=True):
        if spans is None:
            assert inside is None
            continue
        assert inside.dtype == bool
        pairs = zip(begin.tolist(), end.tolist(), strict=True)
        assert inside.tolist() == [plainly_inside(spans, a, b) for a, b in pairs]


@given(st.text("aé日👍", max_size=SIZE), st.lists(st.integers(0, SIZE), max_size=6))
def test_ranges_in_bytes(text: str, edges: list[int]) -> None:
    edges = sorted(min(edge, len(text)) for edge in edges[: len(edges) // 2 * 2])
    ranges = list(zip(edges[::2], edges[1::2], strict=True))
    for (a, b), (first, last) in zip(ranges, to_bytes(text, ranges), strict=True):
        assert text.encode()[first:last].decode() == text[a:b]
        assert first == len(text[:a].encode())


@given(st.lists(st.integers(0, 2**31 - 1), max_size=9))
def test_ids_as_an_array(ids: list[int]) -> None:
    array = as_array(ids)
    assert array.dtype == np.int32 and array.tolist() == ids and array.flags.writeable
