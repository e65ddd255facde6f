"""Which bytes of a text each token stands for."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from tokenkit.tokenizers.alphabet import SPACE
from tokenkit.tokenizers.families import BOS, END_HEADER, EOT, ROLE_MARKERS, START_HEADER

if TYPE_CHECKING:
    from tokenkit.tokenizers.tokenizer import ByteifiedTokenizer

METASPACE = "▁".encode()
_BLANKS = b" \t\n\r\x0b\x0c"


class Layout:
    """What alignment needs to know of each id, as arrays ``[V]``.

    Attributes:
        lengths: bytes.
        bytes, starts: all tokens' bytes joined, and where each token's begin in them; int32
            ``[V + 1]``, so that a token's end is its neighbour's beginning.
        starts_with_space: bool.
        special: bool, added tokens that are special.
        added: bool, all added tokens; text between them is encoded piece by piece.
        header: bool, ordinary tokens that the family's headers and turns are written with.
    """

    def __init__(self, tok: ByteifiedTokenizer) -> None:
        self.lengths = np.array([len(raw) for raw in tok.token_bytes], np.int64)
        self.bytes = np.frombuffer(b"".join(tok.token_bytes), np.uint8)
        self.starts = np.append(0, np.cumsum(self.lengths)).astype(np.int32)
        self.starts_with_space = np.array([t.startswith(SPACE) for t in tok.tokens], bool)
        self.special = np.zeros(len(tok), bool)
        self.added = np.zeros(len(tok), bool)
        for i, token in tok.hf.added_tokens_decoder.items():
            self.added[i] = True
            self.special[i] = token.special
        self.special[list(tok.special_ids)] = True
        self.header = np.zeros(len(tok), bool)
        ids = [
            tok.marker_ids[m] for m in (BOS, START_HEADER, END_HEADER, EOT, *ROLE_MARKERS.values())
        ]
        words = [int(found[0]) for found in ids if found is not None and len(found) == 1]
        canonical = np.array([tok.ids.get(token, -1) for token in tok.tokens])
        self.header = np.isin(canonical, words) & ~self.special


def layout(tok: ByteifiedTokenizer) -> Layout:
    """The tokenizer's layout, made once."""
    if tok.layout is None:
        tok.layout = Layout(tok)
    return tok.layout


def locate(tok: ByteifiedTokenizer, ids: np.ndarray, data: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Byte ranges of tokens in the text they encode; the text may go on after the last one.

    Args:
        ids: ``[T]``.
        data: UTF-8 of the text in the tokenizer's normal form.

    Returns:
        int64 ``[T]`` begins and ends; −1 where a token's bytes are not the text's.
    """
    return locate_rows(tok, [ids], [data])[0]


def locate_rows(
    tok: ByteifiedTokenizer, rows: Sequence[np.ndarray], datas: Sequence[bytes]
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Like :func:`locate` for many texts at once."""
    known = layout(tok)
    ids = np.concatenate([np.zeros(0, np.int32), *rows])
    # Looked up side by side: most of the time goes into fetching the table from memory.
    starts = known.starts[ids]
    lengths = known.starts[1:][ids] - starts
    end = np.cumsum(lengths, dtype=np.int64)
    begin = end - lengths
    # All tokens' bytes, one after another: as a rule, they are the texts'.
    places = np.repeat(starts - begin.astype(np.int32), lengths)
    places += np.arange(len(places), dtype=np.int32)
    spelt = known.bytes.take(places).tobytes()
    bounds = np.cumsum([0, *(len(row) for row in rows)])
    offsets = np.append(0, end)[bounds]  # bytes before each row
    shift = np.repeat(offsets[:-1], np.diff(bounds))
    begin, end = begin - shift, end - shift
    owns = zip(pairwise(bounds.tolist()), pairwise(offsets.tolist()), strict=True)
    located = []
    for row, data, ((a, b), (first, last)) in zip(rows, datas, owns, strict=True):
        if data.startswith(spelt[first:last]):
            located.append((begin[a:b], end[a:b]))
        elif tok.kind == "sentencepiece" and METASPACE in data:
            located.append(_locate_metaspaces(tok, row, data))
        else:
            located.append(_Walk(tok, row, data).run())
    return located


def _locate_metaspaces(
    tok: ByteifiedTokenizer, ids: np.ndarray, data: bytes
) -> tuple[np.ndarray, np.ndarray]:
    """SentencePiece reads "▁" as a space: locate in the text with spaces, then map back."""
    spaced = data.replace(METASPACE, b" ")
    sizes = np.ones(len(spaced), np.int64)
    at = data.find(METASPACE)
    seen = 0
    while at >= 0:
        sizes[at - seen * (len(METASPACE) - 1)] = len(METASPACE)
        seen += 1
        at = data.find(METASPACE, at + len(METASPACE))
    place = np.append(0, np.cumsum(sizes))
    begin, end = _Walk(tok, ids, spaced).run()
    return np.where(begin < 0, -1, place[begin]), np.where(end < 0, -1, place[end])


class _Walk:
    """Piece by piece between added tokens, for tokenizers that put spaces in or take some away."""

    def __init__(self, tok: ByteifiedTokenizer, ids: np.ndarray, data: bytes) -> None:
        self.tok, self.ids, self.data = tok, ids, data
        self.begin = np.full(len(ids), -1, np.int64)
        self.end = np.full(len(ids), -1, np.int64)
        self.at = 0

    def run(self) -> tuple[np.ndarray, np.ndarray]:
        added = layout(self.tok).added[self.ids]
        start = 0
        for stop in [*np.flatnonzero(added).tolist(), len(self.ids)]:
            if stop > start:
                self._piece(start, stop)
            if stop < len(self.ids):
                self._added(stop)
            start = stop + 1
        return self.begin, self.end

    def _past_blanks(self) -> int:
        at = self.at
        while at < len(self.data) and self.data[at] in _BLANKS:
            at += 1
        return at

    def _added(self, place: int) -> None:
        raw = self.tok.token_bytes[self.ids[place]]
        # It may have taken the blanks around it away; what else is between was not understood.
        at = next((k for k in (self.at, self._past_blanks()) if self.data.startswith(raw, k)), -1)
        at = at if at >= 0 else self.data.find(raw, self.at)
        if at >= 0:
            self.begin[place], self.end[place] = at, at + len(raw)
            self.at = at + len(raw)

    def _piece(self, start: int, stop: int) -> None:
        lengths = layout(self.tok).lengths[self.ids[start:stop]].copy()
        raw = b"".join([self.tok.token_bytes[i] for i in self.ids[start:stop].tolist()])
        for at in (self.at, self._past_blanks()):
            if self.data.startswith(raw, at):
                break
            # The tokenizer put a space before the piece.
            if raw.startswith(b" ") and self.data.startswith(raw[1:], at):
                lengths[0] -= 1
                raw = raw[1:]
                break
        else:
            at = self.at
            same = len(os.path.commonprefix([raw, self.data[at : at + len(raw)]]))
            if raw.startswith(b" "):
                without = len(os.path.commonprefix([raw[1:], self.data[at : at + len(raw) - 1]]))
                if without > same:
                    lengths[0] -= 1
                    raw, same = raw[1:], without
            known = int(np.searchsorted(np.cumsum(lengths), same, side="right"))
            raw, lengths, stop = raw[: int(lengths[:known].sum())], lengths[:known], start + known
        ends = at + np.cumsum(lengths)
        self.begin[start:stop], self.end[start:stop] = ends - lengths, ends
        self.at = at + len(raw)
