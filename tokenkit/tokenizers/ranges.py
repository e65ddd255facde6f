"""Ranges of a text: from characters to bytes, and which tokens lie in them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, chain, pairwise

import numpy as np

from tokenkit.tokenizers.chat.template import Spans


def to_bytes(text: str, ranges: Spans) -> Spans:
    """Character ranges, from left to right, as byte ranges."""
    if text.isascii():
        return ranges
    edges = np.unique([0, *chain.from_iterable(ranges)])
    sizes = [len(text[a:b].encode()) for a, b in zip(edges[:-1], edges[1:], strict=True)]
    place = dict(zip(edges.tolist(), np.cumsum([0, *sizes]).tolist(), strict=True))
    return [(place[a], place[b]) for a, b in ranges]


def tokens_inside(
    ranges: Sequence[Spans | None],
    located: Sequence[tuple[np.ndarray, np.ndarray]],
    sizes: Sequence[int],
) -> list[np.ndarray | None]:
    """Which tokens' bytes all lie in their row's ranges (one of them, or several that touch).

    Args:
        ranges: None for a row that is not asked about.
        located: begins and ends of tokens, ``[T]`` for each row.
        sizes: bytes of each row.

    Returns:
        bool ``[T]`` for each row, None as in ``ranges``.
    """
    if all(spans is None for spans in ranges):
        return [None] * len(ranges)
    # Rows lie one after another, one byte apart, so that nothing touches across them.
    offsets = list(accumulate((size + 1 for size in sizes), initial=0))
    joined = [[-1, -1]]  # nothing stands there
    for spans, offset in zip(ranges, offsets, strict=False):
        for a, b in sorted(spans or ()):
            if a + offset <= joined[-1][1]:
                joined[-1][1] = max(b + offset, joined[-1][1])
            else:
                joined.append([a + offset, b + offset])
    starts, stops = np.array(joined).T
    lengths = [len(begin) for begin, _ in located]
    begin, end = (np.concatenate(side) for side in zip(*located, strict=True))
    shift = np.repeat(offsets[:-1], lengths)
    place = np.searchsorted(starts, begin + shift, side="right") - 1
    inside = (begin >= 0) & (end + shift <= stops[place])
    rows = zip(ranges, pairwise(accumulate(lengths, initial=0)), strict=True)
    return [None if spans is None else inside[a:b] for spans, (a, b) in rows]
