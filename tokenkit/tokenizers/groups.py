"""Which tokens of a row stand for a neutral marker."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from tokenkit.tokenizers.alphabet import SPACE
from tokenkit.tokenizers.families import (
    BOS,
    END_HEADER,
    MARKERS,
    ROLE_MARKERS,
    START_HEADER,
    Family,
)
from tokenkit.tokenizers.tokenizer import ByteifiedTokenizer

MARKER_SYMBOL = 256
_NAMES = frozenset(ROLE_MARKERS.values())


@dataclass(frozen=True)
class Pattern:
    """Ids that stand for one or several markers; ``markers`` in the order of MARKERS."""

    ids: tuple[int, ...]
    markers: tuple[str, ...]

    def is_dropped(self, other: Family) -> bool:
        """Whether ``other`` has no counterpart; of several markers the last one decides."""
        return other.replacements[self.markers[-1]] is None


class SymbolTable:
    """What alignment needs to know of each id of a tokenizer, as arrays ``[V]``.

    A pattern is *hard* if it begins with a special token, which is a marker wherever it stands.
    A *soft* one ("user", a newline) is a marker only in a header, and plain text elsewhere.
    """

    def __init__(self, tok: ByteifiedTokenizer) -> None:
        self.bytes_joined = np.frombuffer(b"".join(tok.token_bytes), np.uint8).astype(np.uint16)
        self.symbols = np.append(self.bytes_joined, np.uint16(MARKER_SYMBOL))
        self.marker_offset = len(self.bytes_joined)
        self.lengths = np.array([len(raw) for raw in tok.token_bytes], np.intp)
        self.offsets = np.cumsum(self.lengths) - self.lengths
        # Several ids may spell the same bytes (byte fallback); patterns match any of them.
        self.canonical = np.array([tok.ids.get(token, -1) for token in tok.tokens], np.intp)
        spaces = [len(raw) - len(raw.lstrip(b" ")) for raw in tok.token_bytes]
        self.leading_spaces = np.array(spaces, np.intp)
        self.starts_with_space = np.array([t.startswith(SPACE) for t in tok.tokens], bool)
        self._find_patterns(tok)

    def _find_patterns(self, tok: ByteifiedTokenizer) -> None:
        markers: dict[tuple[int, ...], list[str]] = {}
        for marker in MARKERS:
            ids = tok.marker_ids[marker]
            if ids is not None:
                markers.setdefault(tuple(ids.tolist()), []).append(marker)
        patterns = [Pattern(ids, tuple(found)) for ids, found in markers.items()]
        patterns.sort(key=lambda pattern: -len(pattern.ids))
        self.hard_patterns = [p for p in patterns if p.ids[0] in tok.special_ids]
        self.soft_patterns = [p for p in patterns if p.ids[0] not in tok.special_ids]
        self.hard = self._begins(self.hard_patterns)
        self.soft = self._begins(p for p in self.soft_patterns if len(p.ids) == 1)

    def _begins(self, patterns: Iterable[Pattern]) -> np.ndarray:
        return np.isin(self.canonical, [pattern.ids[0] for pattern in patterns])


def symbol_table(tok: ByteifiedTokenizer) -> SymbolTable:
    """The tokenizer's table, built once."""
    if tok.symbol_table is None:
        tok.symbol_table = SymbolTable(tok)
    return tok.symbol_table


@dataclass
class Groups:
    """Groups of tokens that stand for markers, in order ``[G]``."""

    start: np.ndarray  # first token
    length: np.ndarray  # tokens
    kept: np.ndarray  # bool: adds a symbol; False: dropped
    is_bos: np.ndarray  # bool: can be the beginning of a text

    def select(self, where: np.ndarray) -> Groups:
        return Groups(self.start[where], self.length[where], self.kept[where], self.is_bos[where])

    def insert(self, token: int) -> Groups:
        """With one more group, of a single token."""
        at = np.searchsorted(self.start, token)
        new = (token, 1, True, False)
        pairs = zip(vars(self).values(), new, strict=True)
        return Groups(*(np.insert(values, at, value) for values, value in pairs))

    def tokens(self) -> np.ndarray:
        """Every token of every group, ``[Σ length]``."""
        return self.start.repeat(self.length) + within(self.length)


def within(lengths: np.ndarray) -> np.ndarray:
    """0 … n−1 for each n of ``lengths``, joined."""
    ends = np.cumsum(lengths)
    return np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - lengths, lengths)


def find_groups(table: SymbolTable, other: Family, ids: np.ndarray, bounds: np.ndarray) -> Groups:
    """Groups in a batch of rows.

    Args:
        other: the other side's family, which decides what is dropped.
        ids: ``[N]``, all rows joined.
        bounds: ``[B + 1]``, where rows begin and end.
    """
    found: list[tuple[np.ndarray, Pattern, int]] = []

    def row_end(at: np.ndarray) -> np.ndarray:
        return bounds[np.searchsorted(bounds, at, side="right")]

    def match(at: np.ndarray, pattern: Pattern) -> np.ndarray:
        """Whether the pattern's ids stand at tokens ``at``, within their rows."""
        matches = at + len(pattern.ids) <= row_end(at)
        for k, wanted in enumerate(pattern.ids):
            matches &= table.canonical[ids[(at + k).clip(max=len(ids) - 1)]] == wanted
        return matches

    def take(at: np.ndarray, patterns: list[Pattern]) -> np.ndarray:
        """Assign the longest pattern to each of ``at``; return the rest."""
        for pattern in patterns:
            if not len(at):
                break
            matches = match(at, pattern)
            found.append((at[matches], pattern, len(pattern.ids)))
            at = at[~matches]
        return at

    alone = take(np.flatnonzero(table.hard[ids]), table.hard_patterns)
    for pattern in table.hard_patterns:
        # "<|im_end|>" without the newline, at the end of a cut row
        first = table.canonical[ids[alone]] == pattern.ids[0]
        found.append((alone[first], pattern, 1))
        alone = alone[~first]
    # Soft ones in headers: a role's name after the start, the header's end after the name
    for before, after in (({START_HEADER}, _NAMES), (_NAMES, {END_HEADER})):
        patterns = [p for p in table.soft_patterns if after & set(p.markers)]
        for at, _, length in [f for f in found if before & set(f[1].markers)]:
            following = at + length
            take(following[following < row_end(at)], patterns)
    return _joined(found, other)


def _joined(found: list[tuple[np.ndarray, Pattern, int]], other: Family) -> Groups:
    found = [entry for entry in found if len(entry[0])]
    counts = [len(at) for at, _, _ in found]
    start = np.concatenate([at for at, _, _ in found] or [np.zeros(0, np.intp)])
    order = np.argsort(start, kind="stable")

    def spread(values: list, dtype: type) -> np.ndarray:
        return np.repeat(np.array(values, dtype), counts)[order]

    groups = Groups(
        start[order],
        spread([length for _, _, length in found], np.intp),
        spread([not p.is_dropped(other) for _, p, _ in found], bool),
        spread([BOS in p.markers for _, p, _ in found], bool),
    )
    ends = groups.start + groups.length
    inside = np.append(False, groups.start[1:] < ends[:-1])
    return groups.select(~inside) if inside.any() else groups
