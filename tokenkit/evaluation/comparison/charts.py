"""Small plots as SVG. They are as wide as a phone, so that text keeps its size there.

Colours are those of the page: the k-th model has the class ``s{k}``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tokenkit.evaluation.comparison.axis import Axis, short_number
from tokenkit.evaluation.comparison.markup import Child, Safe, tag

WIDTH = 360
COLOURS = 8
ROW, HEAD = 22, 20  # heights of a row and of a group's name
NAMES, VALUES = 120, 58  # widths beside the dots


@dataclass(frozen=True)
class Dot:
    """A value of the k-th model.

    Attributes:
        stderr: its standard error, None if not known.
        form: how it is written.
    """

    name: str
    model: int
    value: float
    stderr: float | None = None
    form: str = ".3f"

    @property
    def said(self) -> str:
        """The value in words, with a real minus."""
        return format(self.value, self.form).replace("-", "−")


def colour(model: int) -> str:
    """The class of a model's colour."""
    return f"s{model % COLOURS}"


def svg(title: str, height: float, *children: Child) -> Safe:
    """A drawing with a title that screen readers read."""
    box = f"0 0 {WIDTH} {round(height)}"
    return tag("svg", tag("title", title), *children, viewBox=box, role="img", class_="chart")


def text(x: float, y: float, words: str, anchor: str = "start", kind: str = "") -> Safe:
    """Words that begin, are centred or end at a place."""
    return tag("text", words, x=x, y=y, text_anchor=anchor, class_=kind or None)


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Safe:
    """A straight line."""
    return tag("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=kind)


def clipped(name: str, length: int) -> str:
    """A name that fits."""
    return name if len(name) <= length else f"{name[: length - 1]}…"


def _bottom(axis: Axis, top: float, y: float, label: str, count: int = 4) -> list[Safe]:
    """Grid, ticks and label of a horizontal axis at ``y``."""
    drawn = []
    for tick in axis.ticks(count):
        drawn.append(line(axis(tick), top, axis(tick), y, "grid"))
        drawn.append(text(axis(tick), y + 14, short_number(tick), "middle", "tick"))
    return [*drawn, text((axis.begin + axis.end) / 2, y + 30, label, "middle", "label")]


def dots(
    title: str, label: str, groups: Sequence[tuple[str, Sequence[Dot]]], zero: bool = False
) -> Safe:
    """Groups of values, a row each, with bars of twice the standard error to each side.

    Args:
        label: of the axis.
        groups: name ("": none) and values of each.
        zero: whether the axis begins at 0 or has it within.
    """
    values = [
        dot.value + side * 2 * (dot.stderr or 0)
        for _, row in groups
        for dot in row
        for side in (-1, 1)
    ]
    axis = Axis.over(values, NAMES, WIDTH - VALUES, [0.0] if zero else [])
    y, drawn = 4.0, []
    for name, row in groups:
        if name:
            drawn.append(text(0, y + 14, clipped(name, 52), kind="group"))
            y += HEAD
        for dot in row:
            drawn += _dot(dot, axis, y + ROW / 2)
            y += ROW
        y += 4
    grid = _bottom(axis, 4, y, label)
    if zero and axis.low < 0 < axis.high:
        grid.append(line(axis(0), 4, axis(0), y, "zero"))
    return svg(title, y + 36, grid, drawn)


def _dot(dot: Dot, axis: Axis, y: float) -> list[Safe]:
    kind, error = colour(dot.model), 2 * (dot.stderr or 0)
    drawn = [
        text(NAMES - 8, y + 4, clipped(dot.name, 15), "end", "name"),
        text(WIDTH, y + 4, dot.said, "end", "value"),
    ]
    if error:
        drawn.append(line(axis(dot.value - error), y, axis(dot.value + error), y, f"bar {kind}"))
    tip = tag("title", f"{dot.name}: {dot.said}" + (f" ± {dot.stderr:.2g}" if dot.stderr else ""))
    return [*drawn, tag("g", tip, tag("circle", cx=axis(dot.value), cy=y, r=4.5, class_=kind))]


def lines(
    title: str, x_label: str, curves: Sequence[tuple[str, int, Sequence[tuple[float, float]]]]
) -> Safe:
    """Curves over the same axis.

    Args:
        curves: name, number of the model, and points of each.
    """
    left, top, bottom = 46.0, 8.0, 170.0
    xs = [x for _, _, points in curves for x, _ in points]
    ys = [y for _, _, points in curves for _, y in points]
    across = Axis.over(xs, left, WIDTH - 8, [min(xs), max(xs)] if min(xs) < max(xs) else [])
    up = Axis.over(ys, bottom, top)
    drawn = _bottom(across, top, bottom, x_label)
    for tick in up.ticks(4):
        drawn.append(line(left, up(tick), WIDTH - 8, up(tick), "grid"))
        drawn.append(text(left - 6, up(tick) + 4, short_number(tick), "end", "tick"))
    for name, model, points in curves:
        places = " ".join(f"{across(x)},{up(y)}" for x, y in points)
        drawn.append(
            tag("g", tag("title", name), tag("polyline", points=places, class_=colour(model)))
        )
        if len(points) < 12:
            drawn += [
                tag("circle", cx=across(x), cy=up(y), r=2.5, class_=colour(model))
                for x, y in points
            ]
    return svg(title, bottom + 36, drawn)


def bars(title: str, label: str, names: Sequence[str], counts: Sequence[int], model: int) -> Safe:
    """A histogram, a bar for each name."""
    top, bottom, left = 18.0, 150.0, 4.0
    step = (WIDTH - 2 * left) / len(counts)
    highest = max(max(counts), 1)
    drawn = [line(left, bottom, WIDTH - left, bottom, "zero")]
    for number, (name, count) in enumerate(zip(names, counts, strict=True)):
        x, height = left + number * step, (bottom - top) * count / highest
        drawn += [
            tag(
                "rect", x=round(x + 2, 2), y=round(bottom - height, 2), width=round(step - 4, 2),
                height=round(height, 2), class_=colour(model),
            ),
            text(x + step / 2, bottom + 13, name, "middle", "tick small"),
        ]  # fmt: skip
        if count:
            drawn.append(
                text(x + step / 2, bottom - height - 4, f"{count:,}", "middle", "tick small")
            )
    return svg(title, bottom + 34, drawn, text(WIDTH / 2, bottom + 30, label, "middle", "label"))
