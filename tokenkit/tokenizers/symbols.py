"""A batch of token rows as streams of symbols: bytes, and one symbol for each marker's tokens.

Two tokenizations of one text give the same bytes, but not the same tokens for the end of a turn
or a header. So the tokens that stand for one neutral marker (a *group*: ``<|im_end|> Ċ`` here,
``<|eot_id|>`` there) become one symbol, 256. A group whose marker the other family does not have
is dropped: it adds nothing to the stream.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from tokenkit.tokenizers.groups import Groups, SymbolTable, find_groups, symbol_table
from tokenkit.tokenizers.tokenizer import ByteifiedTokenizer

_SPACE_BYTE = 32


@dataclass
class Side:
    """One side of a batch: its real tokens, all rows joined."""

    table: SymbolTable
    ids: np.ndarray  # [N]
    bounds: np.ndarray  # [B + 1]
    groups: Groups
    extra_at: np.ndarray = field(default_factory=lambda: np.zeros(0, np.intp))  # [E] tokens
    extra: np.ndarray = field(default_factory=lambda: np.zeros(0, np.intp))  # [E] spaces before
    lengths: np.ndarray = field(init=False)  # [N] symbols per token, after lay_out()
    stream: np.ndarray = field(init=False)  # [Σ lengths] uint16

    def row(self, row: int) -> Side:
        """One row as a batch of its own."""
        begin, end = self.bounds[row], self.bounds[row + 1]
        groups = self.groups.select((self.groups.start >= begin) & (self.groups.start < end))
        groups.start = groups.start - begin
        return Side(self.table, self.ids[begin:end], np.array([0, end - begin]), groups)

    def replace_row(self, row: int, new: Side) -> None:
        """Take the groups and lengths of one row from :meth:`row`'s, changed since."""
        begin, end = self.bounds[row], self.bounds[row + 1]
        self.lengths[begin:end] = new.lengths
        keep = (self.groups.start < begin) | (self.groups.start >= end)
        pairs = zip(vars(self.groups).values(), vars(new.groups).values(), strict=True)
        old, inner = (list(values) for values in zip(*pairs, strict=True))
        inner[0] = inner[0] + begin
        joined = [np.concatenate([a[keep], b]) for a, b in zip(old, inner, strict=True)]
        order = np.argsort(joined[0], kind="stable")
        self.groups = Groups(*(values[order] for values in joined))

    def lay_out(self) -> None:
        """Compute the stream and how many symbols each token adds to it."""
        lengths = self.table.lengths[self.ids]
        source = self.table.offsets[self.ids]
        groups = self.groups
        if len(groups.start):
            lengths[groups.tokens()] = 0
            lengths[groups.start] = groups.kept
            source[groups.start] = self.table.marker_offset
        ends = np.cumsum(lengths)
        source -= ends
        source += lengths
        index = np.repeat(source, lengths)
        index += np.arange(len(index))
        self.stream = self.table.symbols[index]
        if len(self.extra_at):
            at = ends[self.extra_at] - lengths[self.extra_at]
            self.stream = np.insert(self.stream, np.repeat(at, self.extra), _SPACE_BYTE)
            lengths[self.extra_at] += self.extra
        self.lengths = lengths

    def row_ends(self) -> np.ndarray:
        """End of each row's stream, ``[B + 1]``, beginning with 0."""
        total = np.append(0, np.cumsum(self.lengths))
        return total[self.bounds]

    def segment_starts(self) -> tuple[np.ndarray, np.ndarray]:
        """Texts between markers: row and number ``[S, 2]``, and the first token ``[S]``.

        A text's number is that of the kept groups before it in its row.
        """
        groups, bounds = self.groups, self.bounds
        rows = np.arange(len(bounds) - 1)
        group_row = np.searchsorted(bounds, groups.start, side="right") - 1
        kept_before = np.append(0, np.cumsum(groups.kept))
        first_group = np.searchsorted(groups.start, bounds[:-1])
        number = kept_before[1:] - kept_before[first_group[group_row]]
        start = np.concatenate([bounds[:-1], groups.start + groups.length])
        keys = np.stack([np.append(rows, group_row), np.append(0 * rows, number)], 1)
        text = start < bounds[keys[:, 0] + 1]
        text &= ~np.isin(start, groups.start)
        start, keys = start[text], keys[text]
        order = np.argsort(start, kind="stable")
        keys, first = np.unique(keys[order], axis=0, return_index=True)
        return keys, start[order][first]

    def count_leading_spaces(self, token: np.ndarray) -> np.ndarray:
        """Spaces with which the texts that begin at tokens ``[S]`` begin, ``[S]``."""
        table, token = self.table, token.copy()
        last = self.bounds[np.searchsorted(self.bounds, token, side="right")] - 1
        count = np.zeros(len(token), np.intp)
        active = np.arange(len(token))
        while len(active):
            ids = self.ids[token[active]]
            count[active] += table.leading_spaces[ids]
            only_spaces = table.leading_spaces[ids] == table.lengths[ids]
            active = active[only_spaces & (token[active] < last[active])]
            token[active] += 1
            active = active[~np.isin(token[active], self.groups.start)]
        return count


def build_side(
    tok: ByteifiedTokenizer, other: ByteifiedTokenizer, ids: np.ndarray, mask: np.ndarray
) -> Side:
    """One side's real tokens and groups; ``ids`` and ``mask`` are ``[B, T]``."""
    table = symbol_table(tok)
    bounds = np.append(0, np.cumsum(np.count_nonzero(mask, axis=1)))
    flat = ids[mask].astype(np.intp, copy=False)
    return Side(table, flat, bounds, find_groups(table, other.family, flat, bounds))


def drop_one_sided_bos(a: Side, b: Side) -> None:
    """Drop a BOS with which only one of the two rows begins."""
    starts = []
    for side in (a, b):
        at = side.groups.start[side.groups.is_bos]
        starts.append(np.isin(side.bounds[:-1], at) & (np.diff(side.bounds) > 0))
    for side, lonely in ((a, starts[0] & ~starts[1]), (b, starts[1] & ~starts[0])):
        side.groups.kept[np.isin(side.groups.start, side.bounds[:-1][lonely])] = False


def level_leading_spaces(a: Side, b: Side) -> None:
    """Where one side's text begins with fewer spaces, note the missing ones for its first token.

    Some tokenizers put a space before each text by themselves.
    """
    (keys_a, first_a), (keys_b, first_b) = a.segment_starts(), b.segment_starts()
    spaced = [
        side.table.starts_with_space[side.ids[first]].any()
        for side, first in ((a, first_a), (b, first_b))
    ]
    nothing = np.zeros(0, np.intp)
    for side in (a, b):
        side.extra_at = side.extra = nothing
    if not any(spaced):
        return
    width = 1 + max(keys_a[:, 1].max(initial=0), keys_b[:, 1].max(initial=0))
    keys = [k[:, 0] * width + k[:, 1] for k in (keys_a, keys_b)]
    _, in_a, in_b = np.intersect1d(*keys, assume_unique=True, return_indices=True)
    first_a, first_b = first_a[in_a], first_b[in_b]
    missing = b.count_leading_spaces(first_b) - a.count_leading_spaces(first_a)
    for side, first, lacks in ((a, first_a, missing), (b, first_b, -missing)):
        side.extra_at, side.extra = first[lacks > 0], lacks[lacks > 0]
