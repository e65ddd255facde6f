"""Two tokenizations of a text side by side, for people."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from tokenkit.errors import TokenizerError
from tokenkit.tokenizers.alignment.align import align_rows
from tokenkit.tokenizers.chat.marked import encode_marked
from tokenkit.tokenizers.families import MARKERS
from tokenkit.tokenizers.tokenizer import ByteifiedTokenizer

# Foreground and background of chunks in turn (ANSI "select graphic rendition" parameters).
COLOURS = ("30;46", "30;43", "30;42", "37;44", "37;45")
UNALIGNED_COLOUR = "1;37;41"
_VISIBLE = {" ": "␣", "\t": "⇥", "\n": "↵", "\r": "␍"}
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ufeff\u200b-\u200f\u2028-\u202e\u2060-\u2069]")

Table = list[tuple[str, str, str]]  # a name, and a value for each of the two tokenizers


@dataclass
class Side:
    """One tokenization: ids ``[T]`` and the chunk of each token ``[T]``, -1 for none."""

    tok: ByteifiedTokenizer
    ids: np.ndarray
    chunks: np.ndarray


@dataclass
class Comparison:
    """A text, both its tokenizations, and whether their bytes differ from some place on."""

    text: str
    sides: tuple[Side, Side]
    mismatched: bool

    @property
    def chunk_count(self) -> int:
        return max(int(side.chunks.max()) for side in self.sides) + 1


def compare(
    first: ByteifiedTokenizer, second: ByteifiedTokenizer, text: str, kind: str = "unconstrained"
) -> Comparison:
    """Tokenize a text, which may have neutral markers, with both and align.

    Args:
        kind: of chunks, see :func:`tokenkit.tokenizers.alignment.align.align_rows`.

    Raises:
        TokenizerError: if a tokenizer makes no token of the text.
    """
    rows = [encode_marked(tok, text) for tok in (first, second)]
    for tok, row in zip((first, second), rows, strict=True):
        if not len(row.ids):
            raise TokenizerError(f"tokenizer '{tok.spec}' makes no token of the text {text!r:.40}")
    found = align_rows(first, second, rows[:1], rows[1:], kinds=(kind,))
    chunks = found.teacher_chunks[kind][0], found.student_chunks[kind][0]
    sides = Side(first, rows[0].ids, chunks[0]), Side(second, rows[1].ids, chunks[1])
    return Comparison(text, sides, bool(found.stats["mismatched_rows"]))


def visible(raw: bytes) -> str:
    """Bytes as text in which nothing is invisible; what is not UTF-8 is written as ``\\xNN``."""
    text = raw.decode("utf-8", errors="backslashreplace")
    text = "".join(_VISIBLE.get(character, character) for character in text)
    return _UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def render(side: Side, colour: bool) -> str:
    """The tokens, separated by spaces and grouped by chunk.

    Chunks have colours, the same on both sides, or else stand in brackets; tokens in no chunk are
    red or stand in braces. A new line begins after a chunk in which a token ends with a newline.
    """
    out: list[str] = []
    starts = np.flatnonzero(np.diff(side.chunks, prepend=-2) | (side.chunks < 0))
    for tokens, chunk in zip(
        np.split(side.ids, starts[1:]), side.chunks[starts].tolist(), strict=True
    ):
        raw = [side.tok.token_bytes[i] for i in tokens.tolist()]
        text = " ".join(map(visible, raw))
        if colour:
            code = UNALIGNED_COLOUR if chunk < 0 else COLOURS[chunk % len(COLOURS)]
            out.append(f"\x1b[{code}m{text}\x1b[0m")
        else:
            out.append(f"{{{text}}}" if chunk < 0 else f"[{text}]")
        if any(token.endswith(b"\n") for token in raw):
            out.append("\n")
    return "".join(out).rstrip("\n")


def vocabulary_table(first: ByteifiedTokenizer, second: ByteifiedTokenizer) -> Table:
    """Sizes, families, and how many tokens are the same bytes in both."""
    toks = first, second
    tokens = [tok.ids.keys() - {""} for tok in toks]
    shared = len(tokens[0] & tokens[1])
    return [
        _row("family", *(tok.family.name for tok in toks)),
        _row("vocabulary rows", *(f"{len(tok):,}" for tok in toks)),
        _row("different tokens", *(f"{len(own):,}" for own in tokens)),
        _row("in both", *(f"{shared:,} ({_percent(shared, len(own))})" for own in tokens)),
        _row("special tokens", *(f"{len(tok.special_ids)}" for tok in toks)),
    ]


def marker_table(first: ByteifiedTokenizer, second: ByteifiedTokenizer) -> Table:
    """The tokens and ids each neutral marker becomes."""
    return [
        _row(marker[3:-3], *(_marker(tok, marker) for tok in (first, second))) for marker in MARKERS
    ]


def _marker(tok: ByteifiedTokenizer, marker: str) -> str:
    ids = tok.marker_ids[marker]
    if ids is None:
        return "(none)"
    return " ".join(f"{visible(tok.token_bytes[i])} ({i})" for i in ids.tolist())


def text_table(comparison: Comparison) -> Table:
    """Tokens, compression and chunks of the text; markers have tokens, but no bytes."""
    sides, chunks = comparison.sides, comparison.chunk_count
    text = comparison.text
    for marker in MARKERS:
        text = text.replace(marker, "")
    size = len(text.encode("utf-8", errors="replace"))
    aligned = [int(np.count_nonzero(side.chunks >= 0)) for side in sides]
    means = [f"{count / chunks:.3f}" if chunks else "-" for count in aligned]
    return [
        _row("bytes of the text", *(f"{size:,}" for _ in sides)),
        _row("tokens", *(f"{len(side.ids):,}" for side in sides)),
        _row("bytes per token", *(f"{size / len(side.ids):.3f}" for side in sides)),
        _row("chunks", *(f"{chunks:,}" for _ in sides)),
        _row("tokens per chunk", *means),
        _row(
            "tokens in no chunk",
            *(f"{len(side.ids) - n:,}" for side, n in zip(sides, aligned, strict=True)),
        ),
        _row("bytes differ", *("yes" if comparison.mismatched else "no" for _ in sides)),
    ]


def format_table(header: tuple[str, str, str], rows: Table) -> str:
    """Rows in columns of equal width."""
    widths = [max(len(row[k]) for row in [header, *rows]) for k in range(2)]
    lines = [f"{a:<{widths[0]}}  {b:<{widths[1]}}  {c}".rstrip() for a, b, c in [header, *rows]]
    lines.insert(1, "-" * max(map(len, lines)))
    return "\n".join(lines)


def report(comparison: Comparison, colour: bool) -> str:
    """Both segmentations and all tables."""
    toks = [side.tok for side in comparison.sides]
    parts = [
        f"{tok.spec}\n{render(side, colour)}"
        for tok, side in zip(toks, comparison.sides, strict=True)
    ]
    for title, rows in (
        ("text", text_table(comparison)),
        ("vocabulary", vocabulary_table(*toks)),
        ("marker", marker_table(*toks)),
    ):
        parts.append(format_table((title, "A", "B"), rows))
    return "\n\n".join(parts)


def _row(name: str, first: str, second: str) -> tuple[str, str, str]:
    return name, first, second


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f}%" if whole else "-"
