"""Exact alignment of a single row, token by token.

Slower than the streams of :mod:`tokenkit.tokenizers.align`, but able to decide case by case
whether a special token's name is a marker on both sides or text on one. Needed only for rows in
which the streams disagree.
"""

from __future__ import annotations

import numpy as np

from tokenkit.tokenizers.symbols import SPACE_BYTE, Side


class _Tokens:
    """One side of the row: bytes and marker groups per token."""

    def __init__(self, side: Side, row: int) -> None:
        tokens = side.tokens_of(row)
        self.dropped = side.dropped[tokens]
        self.match = side.match_length[tokens]
        extra = side.symbols[tokens]
        self.bytes = []
        for token, symbols, group in zip(side.ids[tokens], extra, side.group[tokens], strict=True):
            data = side.bytes_of[token]
            missing = int(symbols) - len(data) if group == 0 else 0
            self.bytes.append(bytes([SPACE_BYTE]) * missing + data)
        self.chunk = np.full(len(self.bytes), -1, dtype=np.int64)
        self.next = 0  # token to look at
        self.begin = 0  # first token of the open chunk
        self.text = b""  # bytes of the open chunk

    def skip_dropped(self) -> None:
        while self.next < len(self.bytes) and self.dropped[self.next]:
            self.next += 1

    @property
    def done(self) -> bool:
        return self.next >= len(self.bytes)

    def take(self, count: int) -> None:
        self.text += b"".join(self.bytes[self.next : self.next + count])
        self.next += count

    def close(self, number: int) -> None:
        self.chunk[self.begin : self.next] = number
        self.chunk[self.begin : self.next][self.dropped[self.begin : self.next]] = -1
        self.begin, self.text = self.next, b""


def walk_row(teacher: Side, student: Side, row: int) -> tuple[np.ndarray, np.ndarray, bool]:
    """Chunk of each token of a row on both sides, and whether the texts agree to the end.

    After the first difference in bytes no token is in a chunk.
    """
    t, s = _Tokens(teacher, row), _Tokens(student, row)
    number, complete = 0, True
    while True:
        t.skip_dropped()
        s.skip_dropped()
        if t.done or s.done:
            break
        if t.text == s.text == b"" and t.match[t.next] and s.match[s.next]:
            t.next += int(t.match[t.next])
            s.next += int(s.match[s.next])
        else:
            behind = t if len(t.text) <= len(s.text) else s
            behind.take(1)
            if behind is t and not s.text:
                s.take(1)
            shared = min(len(t.text), len(s.text))
            if t.text[:shared] != s.text[:shared]:
                complete = False
                break
            if len(t.text) != len(s.text):
                continue
        t.close(number)
        s.close(number)
        number += 1
    return t.chunk, s.chunk, complete
