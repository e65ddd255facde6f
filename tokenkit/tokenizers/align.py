"""Exact alignment of two tokenizations of one text, for a whole batch without loops over tokens.

Every row of tokens becomes a stream of symbols (:mod:`tokenkit.tokenizers.symbols`). A chunk ends
wherever both sides have a token that ends after the same number of symbols, as long as the two
streams agree. Time and memory are linear in the number of bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from tokenkit.errors import TokenizerError
from tokenkit.tokenizers.groups import MARKER_SYMBOL
from tokenkit.tokenizers.pair_bias import PairBias
from tokenkit.tokenizers.symbols import (
    Side,
    build_side,
    drop_one_sided_bos,
    level_leading_spaces,
)
from tokenkit.tokenizers.tokenizer import ByteifiedTokenizer

KINDS = ("unconstrained", "space", "unbiased")


@dataclass
class Alignment:
    """Chunk ids per token, by kind; the bytes of chunk k are the same on both sides.

    Attributes:
        teacher_chunks: int32 ``[B, T_t]`` per kind, -1 for tokens in no chunk.
        student_chunks: int32 ``[B, T_s]`` per kind.
        stats: summable counts: ``teacher_tokens``, ``teacher_aligned``, ``student_tokens``,
            ``student_aligned`` (real tokens, and those in a chunk) and ``mismatched_rows`` (rows
            whose bytes differ; from the first difference on nothing is aligned).
    """

    teacher_chunks: dict[str, np.ndarray]
    student_chunks: dict[str, np.ndarray]
    stats: dict[str, int]


def align(
    teacher_tok: ByteifiedTokenizer,
    student_tok: ByteifiedTokenizer,
    teacher_ids: np.ndarray,
    student_ids: np.ndarray,
    teacher_mask: np.ndarray | None = None,
    student_mask: np.ndarray | None = None,
    kinds: tuple[str, ...] = ("unconstrained",),
    pair_bias: PairBias | None = None,
    bias_threshold: float = 0.0,
) -> Alignment:
    """Align a batch of rows.

    ``unconstrained`` chunks are the smallest ones. ``space`` chunks end only where the next token
    on both sides begins with a space, and at markers. ``unbiased`` chunks end only where the
    bias of the two last tokens is at most ``bias_threshold``, and at markers.

    Args:
        teacher_ids, student_ids: integers ``[B, T_t]`` and ``[B, T_s]``, row by row the same text.
        teacher_mask, student_mask: bool of the same shapes, True on real tokens; None = all.

    Raises:
        TokenizerError: if a kind is unknown, or "unbiased" without ``pair_bias``.
    """
    for kind in kinds:
        if kind not in KINDS:
            raise TokenizerError(f"unknown alignment '{kind}' (available: {', '.join(KINDS)})")
    if "unbiased" in kinds and pair_bias is None:
        raise TokenizerError("alignment 'unbiased' needs pair statistics (alm.pair_bias)")
    teacher_ids, student_ids = np.asarray(teacher_ids), np.asarray(student_ids)
    masks = [
        np.ones(ids.shape, bool) if mask is None else np.asarray(mask, bool)
        for ids, mask in ((teacher_ids, teacher_mask), (student_ids, student_mask))
    ]
    teacher = build_side(teacher_tok, student_tok, teacher_ids, masks[0])
    student = build_side(student_tok, teacher_tok, student_ids, masks[1])
    agreed, mismatched = _agree(teacher, student)
    ends = _CommonEnds(teacher, student, agreed)
    result = Alignment({}, {}, {})
    for kind in kinds:
        number = None
        if kind == "space":
            number = ends.merge(ends.special() | ends.before_space())
        elif kind == "unbiased":
            number = ends.merge(ends.special() | ends.unbiased(pair_bias, bias_threshold))
        chunks = [ends.chunks(k, number, masks[k]) for k in (0, 1)]
        result.teacher_chunks[kind], result.student_chunks[kind] = chunks
    for name, k in (("teacher", 0), ("student", 1)):
        result.stats[f"{name}_tokens"] = len((teacher, student)[k].ids)
        result.stats[f"{name}_aligned"] = int(np.count_nonzero(ends.aligned[k]))
    result.stats["mismatched_rows"] = mismatched
    return result


def _agree(teacher: Side, student: Side) -> tuple[np.ndarray, int]:
    """Lay out both streams.

    Returns:
        Per row ``[B]`` how many symbols agree, and the number of rows with a difference.
    """
    drop_one_sided_bos(teacher, student)
    level_leading_spaces(teacher, student)
    teacher.lay_out()
    student.lay_out()
    t_ends, s_ends = teacher.row_ends(), student.row_ends()
    agreed = np.minimum(np.diff(t_ends), np.diff(s_ends))
    mismatched = 0
    for row, length in enumerate(agreed):
        t = teacher.stream[t_ends[row] : t_ends[row] + length]
        s = student.stream[s_ends[row] : s_ends[row] + length]
        if np.array_equal(t, s):
            continue
        agreed[row], differs = _agree_closely(teacher, student, row)
        mismatched += differs
    return agreed, mismatched


def _agree_closely(teacher: Side, student: Side, row: int) -> tuple[int, bool]:
    """Find where a row differs, once each special token is taken for what it is on both sides.

    A text may contain ``<|im_start|>``, which is a special token for one side and ordinary bytes
    for the other. Where a symbol meets a byte, its group is read as bytes, and the row again. But
    two tokens that can both be markers are a pair, whichever markers they are.
    """
    pair = teacher.row(row), student.row(row)
    while True:
        level_leading_spaces(*pair)
        for side in pair:
            side.lay_out()
        length = min(len(side.stream) for side in pair)
        differs = np.flatnonzero(pair[0].stream[:length] != pair[1].stream[:length])
        if not len(differs):
            break
        at = int(differs[0])
        tokens = [_Token.at(side, at) for side in pair]
        symbols = [int(side.stream[at]) == MARKER_SYMBOL for side in pair]
        if tokens[0].begin == tokens[1].begin and all(token.can_be_marker for token in tokens):
            for side, token, is_symbol in zip(pair, tokens, symbols, strict=True):
                if not is_symbol:
                    side.groups = side.groups.insert(token.index)
        elif any(symbols):
            side, token = pair[symbols.index(True)], tokens[symbols.index(True)]
            side.groups = side.groups.select(side.groups.start != token.index)
        else:
            break
    for side, part in zip((teacher, student), pair, strict=True):
        side.replace_row(row, part)
    return (at, True) if len(differs) else (length, False)


class _Token(NamedTuple):
    """The token that a symbol of a single row comes from."""

    index: int
    begin: int  # its first symbol
    can_be_marker: bool

    @classmethod
    def at(cls, side: Side, symbol: int) -> _Token:
        ends = np.cumsum(side.lengths)
        index = int(np.searchsorted(ends, symbol, side="right"))
        is_soft = bool(side.table.soft[side.ids[index]])
        is_marker = side.stream[symbol] == MARKER_SYMBOL
        return cls(index, int(ends[index] - side.lengths[index]), is_soft or is_marker)


class _CommonEnds:
    """Places where a token ends on both sides, in one array over all rows.

    Row r takes ``1 + its symbols`` places from ``base[r]`` on, so that a token which ends after n
    symbols of its row ends at place ``base[r] + n``. Chunks are numbered through the batch.
    """

    def __init__(self, teacher: Side, student: Side, agreed: np.ndarray) -> None:
        self.sides = (teacher, student)
        row_ends = [side.row_ends() for side in self.sides]
        sizes = np.maximum(*(np.diff(ends) for ends in row_ends)) + 1
        self.base = np.cumsum(sizes) - sizes
        self.size = int(sizes.sum())
        self.place = []  # [N] each
        common = np.ones(self.size, bool)
        for side, ends in zip(self.sides, row_ends, strict=True):
            shift = np.repeat(self.base - ends[:-1], np.diff(side.bounds))
            self.place.append(np.cumsum(side.lengths) + shift)
            common &= self._marked(self.place[-1])
        common[self.base] = False
        for row in np.flatnonzero(agreed + 1 < sizes):
            common[self.base[row] + agreed[row] + 1 : self.base[row] + sizes[row]] = False
        self.common = common
        self.before = np.cumsum(common)  # chunks that end at or before each place
        self.first_chunk = self.before[self.base]  # [B]
        self.stop_chunk = self.before[self.base + sizes - 1]  # [B]
        self.chunk, self.aligned = [], []
        for side, place in zip(self.sides, self.place, strict=True):
            # A chunk comes after all that end before the token's own end.
            chunk = self.before[place - 1]
            aligned = chunk < np.repeat(self.stop_chunk, np.diff(side.bounds))
            # Dropped groups and tokens without bytes add nothing, but group members do.
            aligned &= ~self._adds_nothing(side)
            self.chunk.append(chunk)
            self.aligned.append(aligned)

    def _marked(self, places: np.ndarray) -> np.ndarray:
        marks = np.zeros(self.size, bool)
        marks[places] = True
        return marks

    @staticmethod
    def _adds_nothing(side: Side) -> np.ndarray:
        nothing = side.lengths == 0
        groups = side.groups
        if len(groups.start):
            nothing[groups.select(groups.kept).tokens()] = False
        return nothing

    def chunks(self, k: int, number: np.ndarray | None, mask: np.ndarray) -> np.ndarray:
        """Chunk ids ``[B, T]`` of one side; ``number`` renumbers the chunks."""
        side, chunk, aligned = self.sides[k], self.chunk[k], self.aligned[k]
        if number is None:
            ids = chunk - np.repeat(self.first_chunk, np.diff(side.bounds))
        else:
            ids = np.append(number, 0)[np.where(aligned, chunk, -1)]
        out = np.full(mask.shape, -1, np.int32)
        out[mask] = np.where(aligned, ids, -1)
        return out

    def merge(self, closed: np.ndarray) -> np.ndarray:
        """Join chunks up to and including each closed one; ids from 0 in each row, ``[C]``."""
        before = np.cumsum(closed) - closed
        per_row = self.stop_chunk - self.first_chunk
        first = before[np.minimum(self.first_chunk, len(before) - 1)] if len(before) else per_row
        return before - np.repeat(first, per_row)

    def special(self) -> np.ndarray:
        """Chunks that are a marker, or a plain token that can be one on both sides, ``[C]``."""
        special = self._marked(self._group_places(0))
        lone = []
        for k, side in enumerate(self.sides):
            soft = np.flatnonzero(side.table.soft[side.ids])
            end = self.place[k][soft]
            begin = end - side.lengths[soft]
            # The whole chunk: it begins where another ends, or with the row.
            whole = self.common[begin] | np.isin(begin, self.base)
            lone.append(self._marked(end[whole]))
        return (special | (lone[0] & lone[1]))[self.common]

    def _group_places(self, k: int) -> np.ndarray:
        groups = self.sides[k].groups
        return self.place[k][groups.start[groups.kept]]

    def before_space(self) -> np.ndarray:
        """Chunks after which the next token begins with a space on both sides, ``[C]``."""
        found = np.ones(self.size, bool)
        for side, place in zip(self.sides, self.place, strict=True):
            spaced = side.table.starts_with_space[side.ids]
            spaced[side.groups.tokens()] = False
            following = np.roll(spaced, -1)
            following[side.groups.select(~side.groups.kept).tokens()] = False
            following[side.bounds[1:][np.diff(side.bounds) > 0] - 1] = False
            found &= self._marked(place[following])
        return found[self.common]

    def unbiased(self, pair_bias: PairBias, threshold: float) -> np.ndarray:
        """Chunks whose last tokens have small biases, ``[C]``."""
        last = []
        for k, side in enumerate(self.sides):
            token = np.zeros(self.size, np.intp)
            real = np.flatnonzero(self.aligned[k])
            token[self.place[k][real]] = real
            last.append(side.ids[token[self.common]])
        return pair_bias.is_unbiased(*last, threshold)
