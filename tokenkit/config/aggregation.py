"""Names of the ways to balance several losses, and how they are written in ``loss.aggregation``."""

from __future__ import annotations

from collections.abc import Iterator

# One weight per loss, then one backward pass of the weighted sum; "" is the mean.
WEIGHINGS = ("", "approx_gradmag", "approx_gradmag_preserve_mag", "gradnorm")
# Mixtures of the losses' own gradients: one backward pass per loss. May be joined by "+".
MIXTURES = ("gradmag", "gradclip", "pcgrad")


def parse_mixtures(value: str) -> list[tuple[str, float]]:
    """Stages of "gradclip:1.0+pcgrad" as (name, limit); [] if ``value`` is a weighing."""
    if value in WEIGHINGS:
        return []
    parts = [part.partition(":") for part in value.split("+")]
    return [(name, float(limit) if limit else 0.0) for name, _, limit in parts]


def aggregation_problems(value: str) -> Iterator[str]:
    """What is wrong with ``loss.aggregation``; nothing for a valid one."""
    if value in WEIGHINGS:
        return
    known = ", ".join([*WEIGHINGS[1:], "gradmag", "gradclip:1.0", "pcgrad"])
    for part in value.split("+"):
        name, colon, limit = part.partition(":")
        if name in WEIGHINGS:
            yield f"{name!r} gives weights, so it cannot be joined with others by '+'"
        elif name not in MIXTURES:
            yield f"expected one of {known}, or empty"
        elif name == "gradclip":
            try:
                good = float(limit) > 0
            except ValueError:
                good = False
            if not good:
                yield f"{part!r} needs a largest norm above 0, such as gradclip:1.0"
        elif colon:
            yield f"{part!r}: {name} takes no number"
