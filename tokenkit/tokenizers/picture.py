"""An aligned pair as a picture: two rows of tokens, chunks above each other in one colour."""

from __future__ import annotations

from html import escape
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple
from unicodedata import east_asian_width

from tokenkit.tokenizers.inspect import visible

if TYPE_CHECKING:
    from tokenkit.tokenizers.alignment.pair import AlignedPair, AlignedSide

WIDTH, MARGIN, NAMES = 760, 12, 78  # of the picture, around it, and of the names on its left
CHARACTER, TOKEN, GAP = 8.4, 26, 4  # width of a letter, height of a token, space between two
LINE = 2 * TOKEN + 3 * GAP + 14  # height of a line of both rows
COLOURS = ("#7fb3d5", "#f5b971", "#8fcf9f", "#d7a5d9", "#e9d66b")
ALONE = "#d9d9d9"


class _Column(NamedTuple):
    """What stands above each other: a chunk's tokens, or those that one side has alone."""

    chunk: int
    rows: tuple[list[str], list[str]]

    @property
    def width(self) -> float:
        return max(_width(row) for row in self.rows) + 2 * GAP


def _letters(token: str) -> int:
    """Columns of a monospaced font: letters of East Asia take two."""
    return sum(2 if east_asian_width(letter) in "WF" else 1 for letter in token)


def _width(tokens: list[str]) -> float:
    letters = sum(map(_letters, tokens))
    return letters * CHARACTER + len(tokens) * 10 + (len(tokens) - 1) * GAP if tokens else 0.0


def svg(pair: AlignedPair, names: tuple[str, str] = ("teacher", "student")) -> str:
    """The pair as SVG; long texts go on in the next line.

    Args:
        names: what stands before the teacher's and the student's row.
    """
    lines: list[list[_Column]] = [[]]
    x = 0.0
    for column in _columns(pair):
        if x and x + column.width > WIDTH - NAMES - 2 * MARGIN:
            lines.append([])
            x = 0.0
        lines[-1].append(column)
        x += column.width + GAP
    height = len(lines) * LINE + 2 * MARGIN - 14
    drawn = [_line(line, MARGIN + k * LINE, names) for k, line in enumerate(lines)]
    title = f"{names[0]} and {names[1]}: equal colours, equal bytes"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" '
        f'role="img" font-family="ui-monospace, Menlo, Consolas, monospace" font-size="14">'
        f"<title>{escape(title)}</title>"
        f'<rect width="{WIDTH}" height="{height}" rx="8" fill="#ffffff"/>{"".join(drawn)}</svg>\n'
    )


def _columns(pair: AlignedPair) -> list[_Column]:
    """Chunks from left to right, and between them what is in none."""
    sides = [_groups(side) for side in (pair.teacher, pair.student)]
    columns = []
    while any(sides):
        alone: list[list[str]] = [[], []]
        for k, groups in enumerate(sides):
            if groups and groups[0][0] < 0:
                alone[k] = groups.pop(0)[1]
        if any(alone):
            columns.append(_Column(-1, (alone[0], alone[1])))
        if any(sides):
            chunk = min(groups[0][0] for groups in sides if groups)
            found = [g.pop(0)[1] if g and g[0][0] == chunk else [] for g in sides]
            columns.append(_Column(chunk, (found[0], found[1])))
    return columns


def _groups(side: AlignedSide) -> list[tuple[int, list[str]]]:
    """Tokens as people read them, by chunk."""
    words = [visible(side.data[begin:end]) if begin >= 0 else "?"
             for begin, end in side.byte_ranges.tolist()]  # fmt: skip
    tokens = zip(side.chunks.tolist(), words, strict=True)
    return [(chunk, [word for _, word in some]) for chunk, some in groupby(tokens, lambda t: t[0])]


def _line(columns: list[_Column], y: float, names: tuple[str, str]) -> str:
    rows = [y + GAP, y + TOKEN + 2 * GAP]
    out = [
        f'<text x="{MARGIN}" y="{row + 18}" fill="#555555" font-size="12">{escape(name)}</text>'
        for row, name in zip(rows, names, strict=True)
    ]
    x = float(MARGIN + NAMES)
    for column in columns:
        fill = COLOURS[column.chunk % len(COLOURS)] if column.chunk >= 0 else ALONE
        out.append(_box(x, y, column.width, 2 * TOKEN + 3 * GAP, fill, 0.55))
        for row, tokens in zip(rows, column.rows, strict=True):
            # Tokens fill the chunk's width: those of either side stand for all its bytes.
            room = column.width - 2 * GAP - _width(tokens)
            share = room / len(tokens) if tokens else 0.0
            place = x + GAP
            for token in tokens:
                width = _letters(token) * CHARACTER + 10 + share
                out.append(_box(place, row, width, TOKEN, "#ffffff", 0.85))
                out.append(
                    f'<text x="{place + width / 2:.1f}" y="{row + 18}" text-anchor="middle" '
                    f'fill="#1a1a1a">{escape(token)}</text>'
                )
                place += width + GAP
        x += column.width + GAP
    return "".join(out)


def _box(x: float, y: float, width: float, height: float, fill: str, opacity: float) -> str:
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height}" rx="5" '
        f'fill="{fill}" fill-opacity="{opacity}"/>'
    )
