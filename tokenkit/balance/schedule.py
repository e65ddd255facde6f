"""Loss weights that change over training, named as in the reference.

With t from 0 to 1 over training: ``constant`` 1, ``linear`` t, ``reverse_linear`` 1 − t, ``cosine``
(1 + cos πt) / 2, which falls, and ``reverse_cosine`` (1 − cos πt) / 2, which rises.
"""

from __future__ import annotations

import math


def loss_weight(kind: str, step: int, total_steps: int) -> float:
    """Multiplier of a loss's weight at ``step`` (from 0) of ``total_steps``."""
    t = step / total_steps
    return {
        "constant": 1.0,
        "linear": t,
        "reverse_linear": 1.0 - t,
        "cosine": 0.5 * (1.0 + math.cos(math.pi * t)),
        "reverse_cosine": 0.5 * (1.0 - math.cos(math.pi * t)),
    }[kind]
