"""Scales of plots: from values to places, and ticks at round numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Axis:
    """A linear scale.

    Attributes:
        low, high: values at its ends.
        begin, end: their places.
    """

    low: float
    high: float
    begin: float
    end: float

    @classmethod
    def over(
        cls, values: Sequence[float], begin: float, end: float, include: Sequence[float] = ()
    ) -> Axis:
        """A scale that holds all values, with a little room, and those to ``include``."""
        known = [*values, *include]
        low, high = min(known), max(known)
        room = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
        low = low if low in include else low - room
        high = high if high in include and high > low else high + room
        return cls(low, high, begin, end)

    def __call__(self, value: float) -> float:
        """The place of a value."""
        share = (value - self.low) / (self.high - self.low)
        return round(self.begin + share * (self.end - self.begin), 2)

    def ticks(self, count: int = 5) -> list[float]:
        """About so many round numbers between the ends."""
        rough = (self.high - self.low) / count
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(power * k for k in (1, 2, 2.5, 5, 10) if power * k >= rough * 0.999)
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [number * step for number in range(first, last + 1)]


def short_number(value: float) -> str:
    """A tick's label."""
    if value and (abs(value) >= 1e5 or abs(value) < 1e-3):
        return f"{value:.1e}".replace("e-0", "e-").replace("e+0", "e")
    return f"{value:.4f}".rstrip("0").rstrip(".") if abs(value) < 1000 else f"{value:,.0f}"
