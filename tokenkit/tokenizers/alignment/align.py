"""Exact alignment of two encodings of the same rows, for a batch without loops over tokens.

Bytes that both sides share are laid on one scale. A chunk ends wherever tokens end on both sides;
it counts if tokens of either side cover all its bytes. Time and memory are linear in bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain, pairwise

import numpy as np

from tokenkit.errors import TokenizerError
from tokenkit.tokenizers.alignment.anchors import UNIT, shared_intervals
from tokenkit.tokenizers.alignment.locate import layout
from tokenkit.tokenizers.pairs.bias import PairBias
from tokenkit.tokenizers.rows import EncodedRow
from tokenkit.tokenizers.tokenizer import ByteifiedTokenizer

KINDS = ("unconstrained", "space", "unbiased")


@dataclass
class Alignment:
    """Chunk ids per token, by kind; the bytes of chunk k are the same on both sides.

    Attributes:
        teacher_chunks: for each kind and row int32 ``[T_t]``, −1 for tokens in no chunk.
        student_chunks: the same for ``[T_s]``.
        teacher_counted, student_counted: bool ``[T]`` for each row: the rows' own, but the tokens
            of one chunk all count or none does, on both sides.
        stats: summable counts: ``teacher_tokens``, ``teacher_aligned``, ``student_tokens``,
            ``student_aligned`` (tokens, and those in a chunk) and ``mismatched_rows`` (rows in
            which some token's bytes are not those of the text).
    """

    teacher_chunks: dict[str, list[np.ndarray]] = field(default_factory=dict)
    student_chunks: dict[str, list[np.ndarray]] = field(default_factory=dict)
    teacher_counted: list[np.ndarray] = field(default_factory=list)
    student_counted: list[np.ndarray] = field(default_factory=list)
    stats: dict[str, int] = field(default_factory=dict)


def align_rows(
    teacher_tok: ByteifiedTokenizer,
    student_tok: ByteifiedTokenizer,
    teacher_rows: Sequence[EncodedRow],
    student_rows: Sequence[EncodedRow],
    kinds: Sequence[str] = ("unconstrained",),
    pair_bias: PairBias | None = None,
    bias_threshold: float = 0.0,
) -> Alignment:
    """Align two encodings of the same rows.

    ``unconstrained`` chunks are the smallest ones. ``space`` chunks end only where the next token
    on both sides begins with a space, and at special tokens. ``unbiased`` chunks end only where
    the bias of the two last tokens is at most ``bias_threshold``, and at special tokens.

    Raises:
        TokenizerError: if a kind is unknown, or "unbiased" without ``pair_bias``.
    """
    for kind in kinds:
        if kind not in KINDS:
            raise TokenizerError(f"unknown alignment '{kind}' (available: {', '.join(KINDS)})")
    if "unbiased" in kinds and pair_bias is None:
        raise TokenizerError("alignment 'unbiased' needs pair statistics (alm.pair_bias)")
    scale = _Scale(teacher_rows, student_rows)
    sides = [
        _Side(tok, rows, scale, k)
        for k, (tok, rows) in enumerate(((teacher_tok, teacher_rows), (student_tok, student_rows)))
    ]
    chunks = _Chunks(scale, sides)
    result = Alignment()
    for kind in kinds:
        if kind == "unconstrained":
            number = chunks.smallest()
        elif kind == "space":
            number = chunks.merged(chunks.special() | chunks.before_space())
        else:
            number = chunks.merged(chunks.special() | chunks.unbiased(pair_bias, bias_threshold))
        result.teacher_chunks[kind], result.student_chunks[kind] = (
            chunks.of_tokens(k, number) for k in (0, 1)
        )
    result.teacher_counted, result.student_counted = chunks.counted()
    names = zip(("teacher", "student"), sides, chunks.chunk, strict=True)
    for name, side, chunk in names:
        result.stats[f"{name}_tokens"] = len(side.ids)
        result.stats[f"{name}_aligned"] = int(np.count_nonzero(chunk >= 0))
    unknown = [side.row[~side.located].tolist() for side in sides]
    result.stats["mismatched_rows"] = len(set().union(*unknown))
    return result


class _Scale:
    """Shared intervals of all rows, and the common scale on which they lie one after another.

    Attributes:
        begin, end: ``[2, I]`` on each side, rows joined.
        place: ``[I]`` where each begins on the common scale.
        unit: bool ``[I]``.
        offset: ``[2, B]`` bytes before each row of a side.
        rows: ``[B + 1]`` places where rows begin on the common scale.
    """

    def __init__(self, a: Sequence[EncodedRow], b: Sequence[EncodedRow]) -> None:
        found = [shared_intervals(x, y) for x, y in zip(a, b, strict=True)]
        # One byte between rows belongs to none, so that nothing lies across them.
        sizes = np.array([[len(row.data) + 1 for row in side] for side in (a, b)], np.int64)
        sizes = sizes.reshape(2, -1)
        self.offset = np.cumsum(sizes, axis=1) - sizes
        flat = chain.from_iterable(chain.from_iterable(found))
        table = np.fromiter(flat, np.int64).reshape(-1, 5).T
        row = np.repeat(np.arange(len(found)), [len(intervals) for intervals in found])
        begin = table[[0, 2]] + self.offset[:, row]
        end = table[[1, 3]] + self.offset[:, row]
        unit = table[4].astype(bool)
        # Text that touches text on both sides is one interval, so that tokens may lie across.
        joined = (end[:, :-1] == begin[:, 1:]).all(0) & ~unit[:-1] & ~unit[1:]
        first = np.flatnonzero(np.append(True, ~joined)[: len(row)])
        last = np.flatnonzero(np.append(~joined, True)[: len(row)])
        self.begin, self.end = begin[:, first], end[:, last]
        self.unit, row = unit[first], row[first]
        # And a place between intervals that do not touch on both sides.
        lengths = np.where(self.unit, UNIT, self.end[0] - self.begin[0])
        touch = (self.end[:, :-1] == self.begin[:, 1:]).all(0)
        lengths[:-1] += ~touch
        self.place = np.cumsum(lengths) - lengths
        self.size = int(lengths.sum()) + 1
        first = np.searchsorted(row, np.arange(len(found) + 1))
        self.rows = np.append(self.place, self.size)[first]

    def locate(self, side: int, begin: np.ndarray, end: np.ndarray) -> tuple[np.ndarray, ...]:
        """Places ``[N]`` where tokens begin and end on the common scale, −1 for those outside.

        Args:
            begin: from left to right.
        """
        if not len(self.place):
            return np.full(len(begin), -1), np.full(len(begin), -1)
        starts, stops = self.begin[side], self.end[side]
        firsts = np.searchsorted(begin, starts)  # token of each interval
        k = np.bincount(firsts, minlength=len(begin) + 1)[:-1].cumsum() - 1
        shift = (self.place - starts)[k]
        first, last = begin + shift, end + shift
        in_unit = np.flatnonzero(self.unit[k])
        unit = k[in_unit]
        place, within = self.place[unit], 1 + side
        first[in_unit] = place + np.where(begin[in_unit] == starts[unit], 0, within)
        last[in_unit] = place + np.where(end[in_unit] == stops[unit], UNIT, within)
        outside = np.flatnonzero((k < 0) | (end > stops[k]))
        first[outside] = last[outside] = -1
        return first, last


class _Side:
    """One side's tokens, rows joined."""

    def __init__(
        self, tok: ByteifiedTokenizer, rows: Sequence[EncodedRow], scale: _Scale, k: int
    ) -> None:
        self.layout = layout(tok)
        self.bounds = np.cumsum([0, *(len(row.ids) for row in rows)])
        self.ids = _cat([row.ids for row in rows], np.int32)
        self.counted = _cat([row.counted for row in rows], bool)
        self.row = np.repeat(np.arange(len(rows)), np.diff(self.bounds))
        begin = _cat([row.begin for row in rows], np.int64)
        end = _cat([row.end for row in rows], np.int64)
        offset = np.repeat(scale.offset[k], np.diff(self.bounds))
        self.located = begin >= 0
        ordered = begin + offset
        if not self.located.all():  # those that are nowhere would be out of order
            ordered = np.maximum.accumulate(ordered)
        self.first, self.last = scale.locate(k, ordered, end + offset)
        # A token of no bytes (a space that the tokenizer put in) goes with the next one.
        self.empty = self.located & (end == begin)
        self.real = self.located & (self.last > self.first)
        nowhere = np.flatnonzero(~self.real)
        self.first[nowhere] = self.last[nowhere] = -1

    @staticmethod
    def marked(places: Sequence[np.ndarray], size: int) -> np.ndarray:
        """Bool ``[size]``; places of −1 are none."""
        marks = np.zeros(size + 1, bool)
        for some in places:
            marks[some] = True
        return marks[:-1]

    def split(self, values: np.ndarray) -> list[np.ndarray]:
        return [values[a:b] for a, b in pairwise(self.bounds.tolist())]


def _cat(arrays: list[np.ndarray], dtype: type) -> np.ndarray:
    return np.concatenate([np.zeros(0, dtype), *arrays])


class _Chunks:
    """Stretches between common ends of tokens that both sides' tokens cover."""

    def __init__(self, scale: _Scale, sides: list[_Side]) -> None:
        self.scale, self.sides = scale, sides
        marks = np.ones(scale.size, bool)
        for side in sides:
            marks &= side.marked((side.first, side.last), scale.size)
        edges = np.flatnonzero(marks)
        sizes = np.diff(edges)
        # Stretches by the edge before them: 0 is what precedes all edges, the last what follows.
        before = np.cumsum(marks, dtype=np.int32)
        stretches = [before[side.first] for side in sides]  # [N] each
        whole = np.ones(len(sizes), bool)
        for side, stretch in zip(sides, stretches, strict=True):
            covered = np.bincount(stretch, side.last - side.first, minlength=len(edges) + 1)
            whole &= covered[1:-1] == sizes
        number = np.full(len(edges) + 1, -1, np.int32)
        number[1:-1][whole] = np.arange(np.count_nonzero(whole))
        self.begin, self.end = edges[:-1][whole], edges[1:][whole]  # [C]
        self.bounds = np.searchsorted(self.begin, scale.rows)  # of rows, in chunks
        self.chunk = [  # [N] each
            self._with_empty(side, number[stretch])
            for side, stretch in zip(sides, stretches, strict=True)
        ]

    @staticmethod
    def _with_empty(side: _Side, chunk: np.ndarray) -> np.ndarray:
        for i in np.flatnonzero(side.empty)[::-1].tolist():
            if i + 1 < len(chunk) and side.row[i + 1] == side.row[i]:
                chunk[i] = chunk[i + 1]
        return chunk

    def of_tokens(self, k: int, number: np.ndarray) -> list[np.ndarray]:
        """Ids of one side's tokens, row by row; ``number`` renumbers the chunks ``[C]``."""
        return self.sides[k].split(np.append(number, np.int32(-1))[self.chunk[k]])

    def smallest(self) -> np.ndarray:
        """Every chunk by itself; ids from 0 in each row, int32 ``[C]``."""
        number = np.arange(len(self.begin), dtype=np.int32)
        return number - self._first_of_row(number)

    def _first_of_row(self, values: np.ndarray) -> np.ndarray:
        """The value of each chunk's row's first chunk, ``[C]``."""
        # Rows at the end may have no chunk.
        firsts = np.append(values, np.int32(0))[self.bounds[:-1]]
        return np.repeat(firsts, np.diff(self.bounds))

    def merged(self, closed: np.ndarray) -> np.ndarray:
        """Join chunks up to and including each closed one; int32 ``[C]``, from 0 in each row."""
        # What is joined must be one stretch of text.
        closed = closed | np.append(self.begin[1:] != self.end[:-1], True)[: len(closed)]
        before = np.cumsum(closed, dtype=np.int32) - closed
        return before - self._first_of_row(before)

    def counted(self) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Which tokens count; chunks count whole, on both sides, or not at all."""
        out = np.zeros(len(self.begin) + 1, bool)
        for side, chunk in zip(self.sides, self.chunk, strict=True):
            out[chunk[~side.counted]] = True
        out[-1] = False  # tokens in no chunk
        first, second = (
            side.split(side.counted & ~out[chunk])
            for side, chunk in zip(self.sides, self.chunk, strict=True)
        )
        return first, second

    def special(self) -> np.ndarray:
        """Chunks that are a unit, or one special (or header's) token on both sides, ``[C]``."""
        units = self.scale.place[self.scale.unit]
        special = np.isin(self.begin, units)
        alone = np.ones(len(self.begin), bool)
        for side, chunk in zip(self.sides, self.chunk, strict=True):
            known = chunk >= 0
            lone = (side.layout.special | side.layout.header)[side.ids] & known
            tokens = np.bincount(chunk[known], minlength=len(self.begin))
            found = np.bincount(chunk[lone], minlength=len(self.begin))
            alone &= (tokens == 1) & (found == 1)
        return special | alone

    def before_space(self) -> np.ndarray:
        """Chunks after which the next token begins with a space on both sides, ``[C]``."""
        found = np.ones(self.scale.size, bool)
        for side in self.sides:
            spaced = side.layout.starts_with_space[side.ids] & ~side.layout.special[side.ids]
            following = spaced[1:] & (side.row[1:] == side.row[:-1])
            found &= side.marked((side.last[:-1][following],), self.scale.size)
        return found[self.end]

    def unbiased(self, pair_bias: PairBias, threshold: float) -> np.ndarray:
        """Chunks whose last tokens have small biases, ``[C]``."""
        last = []
        for side, chunk in zip(self.sides, self.chunk, strict=True):
            ids = np.zeros(len(self.begin) + 1, np.intp)
            ids[chunk] = side.ids  # the last assignment stays
            last.append(ids[:-1])
        teacher, student = last
        return pair_bias.is_unbiased(teacher, student, threshold)
