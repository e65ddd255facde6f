"""What a run has measured of itself, read from the files it has written."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from tokenkit.evaluation.in_training import FILE
from tokenkit.evaluation.unseen import BITS

TASKS = "eval/"  # how names of tasks' metrics begin


@dataclass(frozen=True)
class Results:
    """Metrics by name; empty where nothing was measured.

    Attributes:
        teacher: of the teacher, at step 0.
        start: of the student, at step 0.
        end: of the student, at ``step``.
        step: of the last evaluation that counts.
    """

    teacher: dict[str, float] = field(default_factory=dict)
    start: dict[str, float] = field(default_factory=dict)
    end: dict[str, float] = field(default_factory=dict)
    step: int = 0

    def bits(self) -> dict[str, float]:
        """Bits per byte of the teacher, of the start and of the end, as far as they are known."""
        sides = {"teacher": self.teacher, "start": self.start, "end": self.end}
        return {name: found[BITS] for name, found in sides.items() if BITS in found}


def results_of(run: Path, step: int) -> Results:
    """What a run measured up to a step; empty if it measured nothing."""
    known = run / FILE
    if not known.is_file():
        return Results()
    first = json.loads(known.read_text(encoding="utf-8"))
    end, at = {}, 0
    metrics = run / "metrics.jsonl"
    for line in metrics.read_text(encoding="utf-8").splitlines() if metrics.is_file() else []:
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:  # the last line of a run that was killed
            continue
        measured = {k: v for k, v in entry.items() if k.startswith((BITS, TASKS))}
        if measured and 0 < entry["step"] <= step:
            end, at = measured, entry["step"]
    return Results(first["teacher"], first["start"], end, at)
