"""Which tokens may follow which in BPE, decided without tokenizing anything.

BPE cuts ``text + token`` into the tokens of ``text`` and ``token`` exactly if no merge crosses the
border between them. The merges that can do so pair a token on the right edge of the last token's
merge tree with one on the left edge of the next token's. Hence only the last token matters, and
for a vocabulary laid out so that the tokens with a common left edge are neighbours, each such merge
forbids one interval of next tokens.

Merges happen in the order of their ranks, those of equal rank from left to right, each as soon as
its two parts are there. Mostly the parts have lower ranks. Where a part is late, the merge follows
right after it, so that its *key* is the key of the part and then its own rank; two merges happen in
the lexicographic order of their keys.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from tokenkit.tokenizers.byteify import BYTE_PIECES
from tokenkit.tokenizers.tokenizer import ByteifiedTokenizer

Key = tuple[int, ...]
Pair = tuple[str, str]
NEVER = np.iinfo(np.int64).max
# What changes how BPE merges; a tokenizer that uses any of these is not described by this module.
_FOREIGN = ("dropout", "continuing_subword_prefix", "end_of_word_suffix")


@dataclass
class MergeTree:
    """How BPE builds each token from single characters (and byte pieces).

    Times are comparable integers that only tell which of two merges happens first.

    Attributes:
        left, right: int64 ``[V]``, the two tokens merged last; -1 for single characters and for
            tokens that merges do not build.
        built: bool ``[V]``, whether merges build the token at all.
        left_time, right_time: int64 ``[V]``, when the token is built left of a border, and right.
        first, second: int64 ``[M]``, the tokens of each merge.
        time: int64 ``[M]``, when the merge happens across a border.
    """

    left: np.ndarray
    right: np.ndarray
    built: np.ndarray
    left_time: np.ndarray
    right_time: np.ndarray
    first: np.ndarray
    second: np.ndarray
    time: np.ndarray


def merge_tree(tok: ByteifiedTokenizer) -> MergeTree | None:
    """Read the merges of a tokenizer; None if it is not plain BPE."""
    model = json.loads(tok.hf.backend_tokenizer.to_str())["model"]
    if "merges" not in model or any(model.get(key) for key in _FOREIGN):
        return None
    pairs = [m.split(" ") if isinstance(m, str) else m for m in model["merges"]]
    ranks = {(a, b): rank for rank, (a, b) in enumerate(pairs)}
    keys, splits = _build_tokens(model["vocab"], ranks)
    on_left, on_right, crossing = _number(_keys_at_border(keys, ranks))
    ids = model["vocab"]
    size = max(len(tok), max(ids.values(), default=-1) + 1)
    left, right, left_time, right_time = (np.full(size, -1, np.int64) for _ in range(4))
    for token, (a, b) in splits.items():
        left[ids[token]], right[ids[token]] = ids[a], ids[b]
    built = [ids[token] for token in keys]
    left_time[built], right_time[built] = list(on_left.values()), list(on_right.values())
    merged = np.array([(ids[a], ids[b]) for a, b in crossing], np.int64).reshape(-1, 2)
    return MergeTree(
        left,
        right,
        left_time >= 0,
        left_time,
        right_time,
        merged[:, 0],
        merged[:, 1],
        np.array(list(crossing.values()), np.int64),
    )


def _build_tokens(
    vocabulary: Iterable[str], ranks: dict[Pair, int]
) -> tuple[dict[str, Key], dict[str, Pair]]:
    """Keys of the tokens that BPE builds, and the two parts of those that are merged."""
    keys: dict[str, Key] = {}
    splits: dict[str, Pair] = {}
    for token in sorted(vocabulary, key=len):
        symbols = [token] if token in BYTE_PIECES else _merge(list(token), ranks)
        pair = tuple(symbols)
        if len(pair) == 1:
            keys[token] = ()
        elif pair in ranks and pair[0] in keys and pair[1] in keys:
            keys[token] = _key(max(keys[pair[0]], keys[pair[1]]), ranks[pair])
            splits[token] = pair
    return keys, splits


def _keys_at_border(keys: dict[str, Key], ranks: dict[Pair, int]) -> list[dict[Any, Key]]:
    """Keys of tokens on the left of a border, of those on the right, and of merges across it.

    Merges of equal rank happen first on the left, then across, then on the right.
    """
    on_left = {token: tuple([3 * rank for rank in key]) for token, key in keys.items()}
    on_right = {token: tuple([3 * rank + 2 for rank in key]) for token, key in keys.items()}
    crossing = {
        (a, b): _key(max(on_left[a], on_right[b]), 3 * rank + 1)
        for (a, b), rank in ranks.items()
        if a in keys and b in keys
    }
    return [on_left, on_right, crossing]


def _number(keys: list[dict[Any, Key]]) -> list[dict[Any, int]]:
    """Put integers in the place of keys, in the same order."""
    order = sorted({key for of_kind in keys for key in of_kind.values()})
    number = {key: time for time, key in enumerate(order)}
    return [{name: number[key] for name, key in of_kind.items()} for of_kind in keys]


def _key(later: Key, rank: int) -> Key:
    """Key of a merge by its rank and the key of the later of its parts."""
    kept = len(later)
    while kept and later[kept - 1] < rank:
        kept -= 1
    return (*later[:kept], rank)


def _merge(symbols: list[str], ranks: dict[Pair, int]) -> list[str]:
    """Merge until two symbols are left or nothing can be merged."""
    while len(symbols) > 2:
        found = [ranks.get(pair, NEVER) for pair in zip(symbols, symbols[1:], strict=False)]
        best = min(found)
        if best == NEVER:
            break
        at = found.index(best)
        symbols[at : at + 2] = [symbols[at] + symbols[at + 1]]
    return symbols


class Intervals(NamedTuple):
    """Intervals of integers, any of which may lie in another."""

    start: np.ndarray  # [K], in order
    stop: np.ndarray  # [K], the furthest end so far

    def contain(self, values: np.ndarray) -> np.ndarray:
        """Whether each value is in one of them, bool of the same shape."""
        at = np.searchsorted(self.start, values, side="right")
        return values < np.concatenate([[-1], self.stop])[at]


class FollowRule:
    """Answers for every token which tokens may follow it."""

    def __init__(self, tree: MergeTree) -> None:
        self.tree = tree
        self.place, child_ends = self._lay_out()
        self._set_intervals(child_ends)

    def _lay_out(self) -> tuple[np.ndarray, list[tuple[np.ndarray, np.ndarray]]]:
        """Put tokens with a common left edge side by side.

        The tokens whose last merge has ``l`` on the left are l's children. Every token comes
        right before its descendants; its children come in the order of falling time.

        Returns:
            Place of each built token, int64 ``[V]``, -1 for others; and for each token its
            children's negated times and where the descendants of each end.
        """
        tree = self.tree
        size = len(tree.left)
        children: list[list[int]] = [[] for _ in range(size)]
        for child in np.argsort(-tree.right_time, kind="stable").tolist():
            if tree.left[child] >= 0:
                children[tree.left[child]].append(child)
        place, end = np.full(size, -1, np.int64), np.zeros(size, np.int64)
        count = 0
        for root in np.flatnonzero(tree.built & (tree.left < 0)).tolist():
            stack = [root]
            while stack:
                token = stack.pop()
                if token < 0:
                    end[~token] = count
                    continue
                place[token] = count
                count += 1
                stack.append(~token)
                stack.extend(reversed(children[token]))
        return place, [(-tree.right_time[kids], end[kids]) for kids in children]

    def _set_intervals(self, child_ends: list[tuple[np.ndarray, np.ndarray]]) -> None:
        """The places each merge forbids, grouped by its first token, in the order of time.

        A merge crosses the border before a token with the merge's second token on its left edge
        if the latter is not merged with what is on its right before that.
        """
        tree = self.tree
        order = np.lexsort((tree.time, tree.first))
        first, left_edge, self.time = (a[order] for a in (tree.first, tree.second, tree.time))
        self.start = self.place[left_edge]
        self.stop = self.start + 1
        for i, (token, when) in enumerate(zip(left_edge.tolist(), self.time.tolist(), strict=True)):
            times, ends = child_ends[token]
            late = int(np.searchsorted(times, -when, side="right")) if len(times) else 0
            if late:
                self.stop[i] = ends[late - 1]
        self.bounds = np.searchsorted(first, np.arange(len(tree.left) + 1))

    def forbidden(self, last: int) -> Intervals:
        """The places that may not follow a built token."""
        slices = []
        token, until = last, NEVER
        while token >= 0:
            begin, end = self.bounds[token : token + 2]
            slices.append(slice(begin, begin + np.searchsorted(self.time[begin:end], until)))
            until = self.tree.left_time[token]
            token = int(self.tree.right[token])
        start = np.concatenate([self.start[part] for part in slices])
        order = np.argsort(start)
        stop = np.concatenate([self.stop[part] for part in slices])[order]
        return Intervals(start[order], np.maximum.accumulate(stop))
