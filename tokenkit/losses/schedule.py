"""Loss weights that change over training."""

from __future__ import annotations

import math


def loss_weight(kind: str, step: int, total_steps: int) -> float:
    """Multiplier of a loss's weight at ``step`` (from 0) of ``total_steps``."""
    t = step / total_steps
    return {
        "constant": 1.0,
        "linear": 1.0 - t,
        "cosine": 0.5 * (1.0 + math.cos(math.pi * t)),
        "reverse_cosine": 0.5 * (1.0 - math.cos(math.pi * t)),
    }[kind]
