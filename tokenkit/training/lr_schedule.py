"""Learning rate by step: optional prefix, warm-up, decay."""

from __future__ import annotations

import math


def learning_rate(
    step: int,
    *,
    lr: float,
    steps: int,
    warmup_steps: int,
    decay: str,
    prefix_steps: int = 0,
    prefix_lr: float = 0.0,
) -> float:
    """Learning rate of optimizer step number ``step`` (from 0).

    For ``prefix_steps`` the rate rises from 0 towards ``prefix_lr`` (a hypernetwork's identity
    phase); then it rises from 0 to ``lr`` over ``warmup_steps`` and decays to 0 at ``steps``.

    Args:
        decay: "linear", "cosine" or "constant".
    """
    if step < prefix_steps:
        return prefix_lr * step / prefix_steps
    step, steps = step - prefix_steps, steps - prefix_steps
    if step < warmup_steps:
        return lr * step / warmup_steps
    if decay == "constant":
        return lr
    t = min(1.0, (step - warmup_steps) / max(1, steps - warmup_steps))
    return lr * (1.0 - t if decay == "linear" else 0.5 * (1.0 + math.cos(math.pi * t)))
