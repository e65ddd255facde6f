"""What the launcher says of this process, known before any process group starts."""

from __future__ import annotations

import os

from tokenkit.errors import ConfigError
from tokenkit.log import logging_ranks

MOST_RANKS = 2**20
PORTS = 65535


def rank() -> int:
    """Global rank of this process (0 without a launcher)."""
    return _number("RANK", 0, 0, MOST_RANKS)


def local_rank() -> int:
    """Rank among the processes of this machine (0 without a launcher)."""
    return _number("LOCAL_RANK", 0, 0, MOST_RANKS)


def world_size() -> int:
    """Ranks that torchrun started (1 without torchrun)."""
    return _number("WORLD_SIZE", 1, 1, MOST_RANKS)


def check_launch() -> None:
    """Whether what the launcher set fits together; without one there is nothing to check.

    Raises:
        ConfigError: naming the first variable of the environment that is wrong.
    """
    first, size = rank(), world_size()
    local_rank()
    given = {name for name in ("RANK", "WORLD_SIZE") if name in os.environ}
    if len(given) == 1:
        (name,) = given
        other = {"RANK": "WORLD_SIZE", "WORLD_SIZE": "RANK"}[name]
        raise ConfigError(
            f"{name} = {os.environ[name]} is set, but {other} is not: start with torchrun, which "
            "sets both, or unset it"
        )
    if first >= size:
        raise ConfigError(f"RANK = {first} with WORLD_SIZE = {size}: ranks are 0 to {size - 1}")
    if given:
        if not os.environ.get("MASTER_ADDR"):
            raise ConfigError("MASTER_ADDR is not set: name rank 0's machine, or use torchrun")
        if "MASTER_PORT" not in os.environ:
            raise ConfigError("MASTER_PORT is not set: give a port such as 29500, or use torchrun")
        _number("MASTER_PORT", 0, 0, PORTS)
    speaking = logging_ranks()
    if speaking and min(speaking) >= size:
        raise ConfigError(
            f"LOG_RANK = {os.environ['LOG_RANK']}: no such rank, they are 0 to {size - 1}"
        )


def _number(name: str, default: int, minimum: int, maximum: int) -> int:
    """An integer of the environment.

    Raises:
        ConfigError: if it is none, or out of range.
    """
    text = os.environ.get(name)
    if text is None:
        return default
    if not text.strip().isdecimal() or not minimum <= int(text[:20]) <= maximum:
        raise ConfigError(
            f"{name} = '{text}' in the environment: expected an integer from {minimum} to "
            f"{maximum} (torchrun sets it)"
        )
    return int(text)
