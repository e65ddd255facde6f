"""A batch of token rows as streams of symbols: bytes, and one symbol per chat marker."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tokenkit.tokenizers.alphabet import SPACE
from tokenkit.tokenizers.byteify import ByteifiedTokenizer
from tokenkit.tokenizers.families import ASSISTANT, END_HEADER, START_HEADER, SYSTEM, USER

MARKER_SYMBOL = 256
SPACE_BYTE = 32


@dataclass
class Side:
    """The real tokens of one side's batch, flattened in row order (N tokens, B rows)."""

    ids: np.ndarray  # [N]
    row: np.ndarray  # [N]
    bounds: np.ndarray  # [B + 1] first token of each row
    bytes_of: list[bytes]  # per token id
    dropped: np.ndarray  # [N] bool, a marker that the other side does not have
    group: np.ndarray  # [N] length of the marker group that begins here (0: none)
    match_length: np.ndarray  # [N] as group, but plain-text look-alikes of markers too
    symbols: np.ndarray  # [N] symbols this token adds to the stream
    starts_with_space: np.ndarray  # [N] bool
    stream: np.ndarray  # [Σ symbols] int16
    end: np.ndarray  # [N] symbols of the row up to and including this token
    starts: np.ndarray  # [B] where each row's stream begins
    lengths: np.ndarray  # [B]

    @property
    def visible(self) -> np.ndarray:
        """Tokens that add to the stream, and so can end a chunk; bool ``[N]``."""
        return self.symbols > 0

    def tokens_of(self, row: int) -> slice:
        return slice(self.bounds[row], self.bounds[row + 1])


class SymbolTable:
    """Symbols of every token id, joined; kept on the tokenizer."""

    def __init__(self, tok: ByteifiedTokenizer) -> None:
        data = tok.token_bytes
        self.lengths = np.array([len(d) for d in data], dtype=np.int64)
        self.offsets = np.cumsum(self.lengths) - self.lengths
        joined = np.frombuffer(b"".join(data), dtype=np.uint8).astype(np.int16)
        self.symbols = np.append(joined, np.int16(MARKER_SYMBOL))
        self.starts_with_space = np.array([t.startswith(SPACE) for t in tok.tokens], dtype=bool)

    @classmethod
    def of(cls, tok: ByteifiedTokenizer) -> SymbolTable:
        table = getattr(tok, "_symbol_table", None)
        if table is None or len(table.lengths) != len(tok):
            table = tok._symbol_table = cls(tok)
        return table


@dataclass(frozen=True)
class _Pattern:
    ids: tuple[int, ...]
    markers: tuple[str, ...]  # markers written like this
    dropped: bool  # the other family has nothing for it
    hard: bool  # contains a special token, so it cannot be plain text


def _patterns(tok: ByteifiedTokenizer, other: ByteifiedTokenizer) -> list[_Pattern]:
    """The family's marker groups. Markers written alike are one; the last decides if dropped."""
    found: dict[tuple[int, ...], list[str]] = {}
    for marker in tok.family.replacements:
        ids = tuple(tok.marker_ids(marker).tolist())
        if ids:
            found.setdefault(ids, []).append(marker)
    special = tok.special_ids
    return [
        _Pattern(
            ids,
            tuple(markers),
            dropped=other.family.replacements[markers[-1]] is None,
            hard=bool(special & set(ids)),
        )
        for ids, markers in found.items()
    ]


def _match(ids: np.ndarray, row: np.ndarray, pattern: tuple[int, ...]) -> np.ndarray:
    """Where ``pattern`` begins, within one row; bool ``[N]``."""
    n, length = len(ids), len(pattern)
    matches = ids == pattern[0]
    for k in range(1, length):
        if not matches.any():
            break
        shifted = np.zeros(n, dtype=bool)
        shifted[: n - k] = (ids[k:] == pattern[k]) & (row[k:] == row[: n - k])
        matches = matches & shifted
    return matches


def _find_groups(
    ids: np.ndarray, row: np.ndarray, patterns: list[_Pattern]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Arrays ``group``, ``dropped`` and ``match_length`` of :class:`Side`.

    Special tokens are markers wherever they stand. Plain text such as "user" or a newline is one
    only in a header: a role's name after the start of a header, and the end of that header.
    """
    n = len(ids)
    group, match_length = np.zeros(n, dtype=np.int64), np.zeros(n, dtype=np.int64)
    dropped = np.zeros(n, dtype=bool)
    after_start = np.zeros(n + 1, dtype=bool)  # a role's name may stand here
    after_role = np.zeros(n + 1, dtype=bool)  # the end of a header may stand here

    def assign(where: np.ndarray, pattern: _Pattern) -> None:
        match_length[where & (match_length == 0)] = len(pattern.ids)
        where = np.flatnonzero(where & (group == 0))
        group[where] = len(pattern.ids)
        dropped[where] = pattern.dropped
        following = np.minimum(where + len(pattern.ids), n)
        if START_HEADER in pattern.markers:
            after_start[following] = True
        if {SYSTEM, USER, ASSISTANT} & set(pattern.markers):
            after_role[following] = True

    matches = [(pattern, _match(ids, row, pattern.ids)) for pattern in patterns]
    for pattern, where in matches:
        if pattern.hard:
            assign(where, pattern)
    for context, markers in ((after_start, {SYSTEM, USER, ASSISTANT}), (after_role, {END_HEADER})):
        for pattern, where in matches:
            if not pattern.hard and markers & set(pattern.markers):
                assign(where & context[:n], pattern)
    for pattern, where in matches:
        match_length[where & (match_length == 0)] = len(pattern.ids)
    return group, dropped, match_length


def _inside(group: np.ndarray, dropped: np.ndarray) -> np.ndarray:
    """Tokens that continue a group begun before them; bool ``[N]``."""
    inside = np.zeros(len(group) + 1, dtype=bool)
    long = np.flatnonzero((group > 1) & ~dropped)
    for length in np.unique(group[long]):
        for k in range(1, length):
            inside[np.minimum(long[group[long] == length] + k, len(group))] = True
    return inside[:-1]


def build_side(
    tok: ByteifiedTokenizer, other: ByteifiedTokenizer, ids: np.ndarray, mask: np.ndarray
) -> Side:
    """Streams of one side.

    Args:
        ids: ``[B, T]``.
        mask: ``[B, T]`` bool, True on real tokens.
        other: the other side's tokenizer, whose family decides which markers are dropped.
    """
    table = SymbolTable.of(tok)
    flat = ids[mask].astype(np.int64)
    counts = mask.sum(1)
    row = np.repeat(np.arange(len(ids)), counts)
    group, dropped, match_length = _find_groups(flat, row, _patterns(tok, other))
    inside = _inside(group, dropped)
    group[inside] = 0
    # Of a marker that has no counterpart, the whole group is dropped.
    symbols = np.where(inside | dropped, 0, np.where(group > 0, 1, table.lengths[flat]))
    source = np.where(group > 0, len(table.symbols) - 1, table.offsets[flat])
    side = Side(
        ids=flat,
        row=row,
        bounds=np.concatenate([[0], np.cumsum(counts)]),
        bytes_of=tok.token_bytes,
        dropped=dropped | ((symbols == 0) & ~inside),
        group=np.where(dropped, 0, group),
        match_length=np.where(inside | dropped, 0, match_length),
        symbols=symbols,
        starts_with_space=table.starts_with_space[flat] & ~dropped,
        stream=np.zeros(0, dtype=np.int16),
        end=np.zeros(0, dtype=np.int64),
        starts=np.zeros(0, dtype=np.int64),
        lengths=np.zeros(0, dtype=np.int64),
    )
    _lay_stream(side, table.symbols, source)
    return side


def _lay_stream(side: Side, table: np.ndarray, source: np.ndarray) -> None:
    """Join the symbols of all tokens and note where tokens and rows end."""
    ends = np.cumsum(side.symbols)
    begins = ends - side.symbols
    token = np.repeat(source - begins, side.symbols)
    side.stream = table[token + np.arange(len(token))]
    _measure(side, ends)


def _measure(side: Side, ends: np.ndarray) -> None:
    total = np.concatenate([[0], ends])
    at_bounds = total[side.bounds]
    side.starts = at_bounds[:-1]
    side.lengths = np.diff(at_bounds)
    side.end = ends - side.starts[side.row]


def _first_text(side: Side, skip_group: np.ndarray) -> np.ndarray:
    """First token of each row after dropped ones and (where asked) a leading marker; ``[B]``.

    A row without any gets −1.
    """
    n, rows = len(side.ids), len(side.lengths)
    skip = side.dropped.copy()
    candidate = np.flatnonzero(~skip & (side.symbols > 0))

    def first(candidates: np.ndarray) -> np.ndarray:
        found = np.full(rows, -1)
        found[side.row[candidates[::-1]]] = candidates[::-1]
        return found

    leading = first(candidate)
    at = leading[(leading >= 0) & skip_group]
    at = at[side.group[at] > 0]
    skip_token = np.zeros(n, dtype=bool)
    skip_token[at] = True
    return first(candidate[~skip_token[candidate]])


def _leading_spaces(side: Side, first: np.ndarray) -> np.ndarray:
    """Spaces at the start of each row's text, ``[B]``."""
    present = first >= 0
    begin = np.zeros(len(first), dtype=np.int64)
    token = first[present]
    begin[present] = side.starts[side.row[token]] + side.end[token] - side.symbols[token]
    no_space = np.append(np.flatnonzero(side.stream != SPACE_BYTE), len(side.stream))
    stop = no_space[np.searchsorted(no_space, begin)]
    stop = np.minimum(stop, side.starts + side.lengths)
    return np.where(present, stop - begin, 0)


def add_leading_spaces(teacher: Side, student: Side) -> None:
    """Where one side's text begins with more spaces, give the other's first token the rest.

    Some tokenizers put a space before the first word by themselves.
    """
    sides = (teacher, student)
    leading = [_first_text(s, np.zeros(len(s.lengths), dtype=bool)) for s in sides]
    both = np.ones(len(teacher.lengths), dtype=bool)
    for side, first in zip(sides, leading, strict=True):
        both &= (first >= 0) & (side.group[np.maximum(first, 0)] > 0) if len(side.ids) else False
    firsts = [_first_text(side, both) for side in sides]
    spaces = [_leading_spaces(s, f) for s, f in zip(sides, firsts, strict=True)]
    for side, first, own, other in (
        (teacher, firsts[0], spaces[0], spaces[1]),
        (student, firsts[1], spaces[1], spaces[0]),
    ):
        rows = np.flatnonzero((other > own) & (first >= 0))
        rows = rows[side.group[first[rows]] == 0]
        if len(rows):
            _prepend(side, first[rows], (other - own)[rows])


def _prepend(side: Side, tokens: np.ndarray, counts: np.ndarray) -> None:
    """Put ``counts`` spaces before the symbols of ``tokens``."""
    at = side.starts[side.row[tokens]] + side.end[tokens] - side.symbols[tokens]
    side.stream = np.insert(side.stream, np.repeat(at, counts), SPACE_BYTE)
    side.symbols[tokens] += counts
    side.starts_with_space[tokens] = True
    _measure(side, np.cumsum(side.symbols))
