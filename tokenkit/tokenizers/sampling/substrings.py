"""Statistics of the substrings of a text, the raw material of sampled tokenizers.

Words repeat, so substrings are counted once per *unique* pre-token and weighted by how often it
occurs. Counting is exact: a substring of k bytes is known by the rank of its first k − 1 bytes
and its last byte, so sixteen sorts of integers replace a hash table of strings.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import regex

# GPT-2's: contractions, words, numbers and punctuation with one leading space, runs of blanks.
PRETOKEN_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_PRETOKENS = regex.compile(PRETOKEN_PATTERN)


def count_pretokens(texts: Iterable[str]) -> Counter[str]:
    """How often each pre-token occurs in ``texts``."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(_PRETOKENS.findall(text))
    return counts


@dataclass(frozen=True)
class Substrings:
    """All different substrings of whole characters, by length and then by bytes.

    Attributes:
        joined: bytes of all pre-tokens.
        start: where in ``joined`` one occurrence begins, int64 ``[S]``.
        length: in bytes, int64 ``[S]``.
        count: occurrences in the text, int64 ``[S]``.
    """

    joined: bytes
    start: np.ndarray
    length: np.ndarray
    count: np.ndarray

    def __len__(self) -> int:
        return len(self.start)

    def text(self, i: int) -> bytes:
        """Bytes of substring ``i``."""
        return self.joined[self.start[i] : self.start[i] + self.length[i]]


def count_substrings(pretoken_counts: Mapping[str, int], max_bytes: int = 16) -> Substrings:
    """Count the substrings of at most ``max_bytes`` bytes within pre-tokens.

    The result does not depend on the order of the pre-tokens. Memory is linear in the bytes of
    the unique pre-tokens.
    """
    raw = [pretoken.encode("utf-8", "replace") for pretoken in pretoken_counts]
    joined = b"".join(raw)
    data = np.frombuffer(joined, np.uint8)
    lengths = np.array([len(r) for r in raw], np.int64)
    weights = np.array(list(pretoken_counts.values()), np.float64)
    # One place more than there are bytes: the end of the last pre-token
    begins_character = np.append((data & 0xC0) != 0x80, True)
    position = np.flatnonzero(begins_character[:-1])
    pretoken = np.repeat(np.arange(len(raw)), lengths)[position]
    room = np.cumsum(lengths)[pretoken] - position  # bytes up to the pre-token's end
    weight = weights[pretoken]
    rank = np.zeros(len(position), np.int64)
    found: list[tuple[np.ndarray, ...]] = []
    for k in range(1, max_bytes + 1):
        fits = room >= k
        position, room, weight, rank = position[fits], room[fits], weight[fits], rank[fits]
        if not len(position):
            break
        key = rank * 256 + data[position + k - 1]
        first, rank = _rank(key)
        total = np.bincount(rank, weight)
        start = position[first]
        # Equal bytes are whole characters everywhere or nowhere.
        whole = begins_character[start + k]
        start = start[whole]
        found.append((start, np.full(len(start), k), total[whole].astype(np.int64)))
    columns = [np.concatenate(c) for c in zip(*found, strict=True)] if found else [_NONE] * 3
    return Substrings(joined, *columns)


_NONE = np.zeros(0, np.int64)


def _rank(key: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where each different key stands first in sorted order, and every key's rank."""
    order = np.argsort(key)
    ordered = key[order]
    new = np.append(True, ordered[1:] != ordered[:-1])
    rank = np.empty(len(key), np.int64)
    rank[order] = np.cumsum(new) - 1
    return order[new], rank
