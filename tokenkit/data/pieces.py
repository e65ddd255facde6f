"""Long texts in pieces, to bound memory and time."""

from __future__ import annotations

from collections.abc import Iterator


def pieces(text: str, longest: int) -> Iterator[str]:
    """The text in pieces of at most ``longest`` characters, cut behind newlines where there are."""
    start = 0
    while len(text) - start > longest:
        limit = start + longest
        cut = text.rfind("\n", start, limit) + 1 or limit
        yield text[start:cut]
        start = cut
    yield text[start:]
