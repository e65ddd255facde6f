"""Values that no other key changes: choices, ranges, names of files."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from tokenkit.config.keys import KeyInfo
from tokenkit.config.load import to_toml
from tokenkit.io import name_problem
from tokenkit.registry import did_you_mean

# What torch and Python's iterators take, where a key has no maximum of its own
LARGEST_INT = 2**31 - 1
LARGEST_FLOAT = 3.4e38  # of float32


def check_values(info: KeyInfo, value: Any) -> Iterator[str]:
    """Yield what is wrong with a key's value; with each element, if it is a list."""
    for item in value if isinstance(value, list) else [value]:
        for problem in _item_problems(info, item, isinstance(value, list)):
            yield f"{info.full_name} = {to_toml(value)}: {problem}"


def _item_problems(info: KeyInfo, item: Any, of_list: bool) -> Iterator[str]:
    limits = info.metadata
    if limits["choices"] and item not in limits["choices"]:
        hint = did_you_mean(item, list(limits["choices"]))
        of_item = f" for {to_toml(item)}" if of_list else ""
        yield f"expected one of {', '.join(limits['choices'])}{of_item}{hint}"
    if limits["joined"]:
        yield from _check_joined(item, limits["joined"])
    if isinstance(item, str):
        yield from _check_text(item, limits["path"])
    elif not isinstance(item, bool):
        yield from _check_number(item, limits)


def _check_number(item: int | float, limits: Any) -> Iterator[str]:
    if isinstance(item, float) and not math.isfinite(item):
        yield "expected a finite number"
    if limits["minimum"] is not None and item < limits["minimum"]:
        yield f"expected at least {limits['minimum']}"
    if limits["above"] is not None and item <= limits["above"]:
        yield f"expected more than {limits['above']}"
    if limits["below"] is not None and item >= limits["below"]:
        yield f"expected less than {limits['below']}"
    largest = limits["maximum"]
    if largest is None:
        largest = LARGEST_INT if isinstance(item, int) else LARGEST_FLOAT
    if item > largest:
        yield f"expected at most {largest}"


def _check_text(item: str, path: bool) -> Iterator[str]:
    if "\0" in item:
        yield "it holds a NUL character"
    elif path and (problem := name_problem(item)):
        yield problem


def _check_joined(value: str, choices: tuple[str, ...]) -> Iterator[str]:
    """Names joined by ``+``."""
    parts = value.split("+") if value else []
    for part in parts:
        if part not in choices:
            yield (
                f"{to_toml(part)} is not one of {', '.join(choices)} (joined by +)"
                f"{did_you_mean(part, list(choices))}"
            )
    if len(set(parts)) < len(parts):
        yield "a name appears twice"
