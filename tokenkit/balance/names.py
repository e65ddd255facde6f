"""How mixtures of gradients are written in ``loss.aggregation``: stages joined by "+"."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

# What may be done to the losses' own gradients; one backward pass per loss.
MIXTURES = ("gradmag", "gradclip", "pcgrad")


def parse_mixtures(value: str) -> list[tuple[str, float]]:
    """Stages of "gradclip:1.0+pcgrad" as (name, limit); [] if ``value`` is no mixture."""
    parts = [part.partition(":") for part in value.split("+")]
    if any(name not in MIXTURES for name, _, _ in parts):
        return []
    return [(name, float(limit) if limit else 0.0) for name, _, limit in parts]


def mixture_problems(value: str, balances: Sequence[str]) -> Iterator[str]:
    """What is wrong with a mixture; nothing for a valid one.

    Args:
        balances: names that are no stages.
    """
    known = ", ".join([*balances, "gradmag", "gradclip:1.0", "pcgrad"])
    for part in value.split("+"):
        name, colon, limit = part.partition(":")
        if name in balances:
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
