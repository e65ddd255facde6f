"""The training curves of a run, from its ``metrics.jsonl``."""

from __future__ import annotations

import json
import math
from pathlib import Path

from tokenkit.errors import DataError

Curve = list[tuple[int, float]]
POINTS = 300  # of a curve that are drawn
# Not about learning: what a machine did, or what is shown otherwise.
LEFT_OUT = (
    *("tokens_per_second", "teacher_tokens_per_second", "memory_gib", "mfu", "hfu"),
    *("data_wait", "alignment/"),
)


def read_curves(run: Path) -> dict[str, Curve]:
    """Values by step of each metric that is worth a plot.

    A step that was logged twice (after a resume) counts as last logged. What is not finite is left
    out, and so is a last line that a run has not finished writing.

    Raises:
        DataError: if the run has no metrics, or a line of them is damaged.
    """
    path = run / "metrics.jsonl"
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"run '{run}' has no metrics that can be read ({error})") from error
    curves: dict[str, dict[int, float]] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            step = int(row.pop("step"))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            if number == len(lines):
                break
            raise DataError(f"{path}:{number}: not a line of metrics ({error})") from error
        for name, value in row.items():
            known = isinstance(value, (int, float)) and math.isfinite(value)
            if known and not name.startswith(LEFT_OUT):
                curves.setdefault(name, {})[step] = float(value)
    return {name: thinned(sorted(points.items())) for name, points in curves.items()}


def thinned(curve: Curve, points: int = POINTS) -> Curve:
    """At most so many points, at even distances; the last one stays."""
    if len(curve) <= points:
        return curve
    step = -(-len(curve) // (points - 1))
    return [*curve[:-1:step], curve[-1]]
