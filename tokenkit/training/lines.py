"""Lines of text about a run's steps and validations."""

from __future__ import annotations

import sys
import time
from collections import deque

COLORS = {
    "step": 36, "loss": 32, "tok/s": 34, "mfu": 35, "mem": 33, "lr": 90, "grad": 90, "skipped": 31,
}  # fmt: skip
NOTABLE_WAIT = 0.05  # share of the time spent waiting for data that is worth a word
LOOK_BACK = 20  # log lines that the speed of the rest is taken from


def in_words(seconds: float) -> str:
    """A duration in two units at most: ``45 s``, ``3 min``, ``2 h 05 min``, ``3 d 4 h``."""
    minutes, seconds = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min" if minutes >= 10 else f"{60 * minutes + seconds} s"


class TimeLeft:
    """When a run will be done, by the time its last steps took, with all that came between them."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self._seen: deque[tuple[int, float]] = deque(maxlen=LOOK_BACK)

    def note(self, step: int) -> None:
        """``step`` is done now."""
        self._seen.append((step, time.perf_counter()))

    def seconds(self) -> float | None:
        """Until the last step; None while nothing is known, or nothing is left."""
        if not self._seen or self._seen[-1][0] >= self.steps:
            return None
        (first, begin), (last, end) = self._seen[0], self._seen[-1]
        return (self.steps - last) * (end - begin) / (last - first) if last > first else None


class Lines:
    """Writes lines; in colour where a terminal shows them and ``color`` allows it."""

    def __init__(self, color: bool) -> None:
        self.color = color and sys.stderr.isatty()

    def paint(self, name: str, text: str) -> str:
        return f"\033[{COLORS[name]}m{text}\033[0m" if self.color else text

    def step(self, step: int, metrics: dict[str, float], left: float | None) -> str:
        """What is worth knowing of a step.

        Args:
            left: seconds to the end, where they can be told.
        """
        paint = self.paint
        terms = [
            f"{name.removeprefix('loss/')} {value:.4f}"
            for name, value in metrics.items()
            if name.startswith("loss/")
        ]
        parts = [
            paint("step", f"step {step:>5}"),
            paint("loss", f"loss {metrics['loss']:.4f} ({', '.join(terms)})"),
            paint("grad", f"grad {metrics['grad_norm']:.3f}"),
            paint("lr", f"lr {metrics['lr']:.2e}"),
            paint("tok/s", f"{metrics['tokens_per_second']:,.0f} tok/s"),
            paint("mem", f"{metrics['memory_gib']:.2f} GiB"),
        ]
        if metrics.get("skipped_steps"):
            parts.append(paint("skipped", f"skipped {metrics['skipped_steps']:.0f}"))
        if "mfu" in metrics:
            parts.append(paint("mfu", f"mfu {metrics['mfu']:.1%}"))
        if metrics["data_wait"] > NOTABLE_WAIT:
            parts.append(paint("skipped", f"waited for data {metrics['data_wait']:.0%}"))
        if left is not None:
            parts.append(f"{in_words(left)} left")
        return "  ".join(parts)

    def evaluation(self, step: int, metrics: dict[str, float]) -> str:
        """Each result, and what is known beside it: the teacher's, the share of the gap closed."""
        parts = []
        for name, value in metrics.items():
            if name.startswith(("teacher/", "gap_closed/")):
                continue
            label = name.removeprefix("validation/").removeprefix("eval/")
            notes = []
            if (teacher := metrics.get(f"teacher/{name}")) is not None:
                notes.append(f"teacher {teacher:.4f}")
            if (gap := metrics.get(f"gap_closed/{name}")) is not None:
                notes.append(f"gap closed {gap:.1%}")
            said = f"{label.replace('bits_per_byte', 'bits per byte')} {value:.4f}"
            parts.append(said + (f" ({', '.join(notes)})" if notes else ""))
        return self.paint("step", f"step {step:>5}") + "  " + self.paint("loss", "  ".join(parts))
