"""Tokens that arrive one by one, as text: whole characters only, cut before stop strings."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Sequence

from tokenkit.tokenizers import ByteifiedTokenizer


class Spelling:
    """What each token of a tokenizer adds to a text.

    Attributes:
        raw: bytes per id.
        hidden: special tokens, which are not shown.
        apart: tokens that text is cut at before it is tokenized: the added ones.
        drops_space: whether the space that encoding puts before a piece of text is taken away.
    """

    def __init__(self, tok: ByteifiedTokenizer) -> None:
        added = tok.hf.added_tokens_decoder
        self.raw = tok.token_bytes
        self.hidden = {i for i, token in added.items() if token.special} | tok.special_ids
        self.apart = set(added) | tok.special_ids
        self.drops_space = tok.adds_prefix_space

    def text(self, ids: Iterable[int]) -> str:
        """Text of ids, special tokens left out; what is no UTF-8 becomes "�"."""
        pieces = TextPieces(self)
        return "".join([*map(pieces.put, ids), pieces.finish()])


class TextPieces:
    """The text of a continuation while it grows.

    A piece is final when it is given out: bytes of an unfinished character, or that may become a
    stop string, are kept back. Where a text ends does not depend on how tokens cut it: the stop
    string whose last byte comes first ends it, the longest of those that end together. Bytes that
    are no UTF-8 become "�"; a character that the last token leaves unfinished is left out.

    Args:
        stops: strings that end the text.
        begins: whether a piece of text begins here, rather than goes on.

    Attributes:
        text: what has been given out.
        stopped: whether a stop string was met; what comes after it is ignored.
    """

    def __init__(self, spelling: Spelling, stops: Sequence[str] = (), begins: bool = True) -> None:
        self.spelling = spelling
        self.stops = [stop.encode() for stop in stops]
        self.begins = begins
        self.text, self.stopped = "", False
        self._held = b""
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def put(self, token: int) -> str:
        """The text that a token makes final."""
        return "" if self.stopped else self._give(self._cut(self._bytes(token)))

    def finish(self) -> str:
        """The rest, when no token follows."""
        rest, self._held = self._held, b""
        return self._give(rest)

    def _bytes(self, token: int) -> bytes:
        spelling = self.spelling
        raw = spelling.raw[token] if 0 <= token < len(spelling.raw) else b""
        if token in spelling.apart:
            self.begins = True
            return b"" if token in spelling.hidden else raw
        if self.begins and spelling.drops_space:
            raw = raw.removeprefix(b" ")
        self.begins = False
        return raw

    def _cut(self, new: bytes) -> bytes:
        """What is sure to stay, of the bytes held and new."""
        data = self._held + new
        found = [(at + len(stop), at) for stop in self.stops if (at := data.find(stop)) >= 0]
        if found:
            self.stopped, self._held = True, b""
            return data[: min(found)[1]]
        keep = max((_overlap(data, stop) for stop in self.stops), default=0)
        self._held = data[len(data) - keep :]
        return data[: len(data) - keep]

    def _give(self, data: bytes) -> str:
        piece = self._decoder.decode(data)
        self.text += piece
        return piece


def _overlap(data: bytes, stop: bytes) -> int:
    """Length of the longest end of the data that a stop string begins with."""
    longest = min(len(data), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if data.endswith(stop[:n])), 0)
