"""Work that may take minutes says so once it is known, in files as well as in terminals."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tokenkit.log import logger

T = TypeVar("T")
LONG = 30.0  # seconds of work left that are worth a line


def paced(parts: Iterable[T], work: str) -> Iterator[T]:
    """The parts one after another; after the first, a line says how long the rest will take.

    Args:
        work: what is done with them, for the line.
    """
    parts = list(parts)
    begin = time.monotonic()
    for number, part in enumerate(parts):
        yield part
        left = (time.monotonic() - begin) * (len(parts) - 1)
        if number == 0 and left > LONG:
            logger.info(f"{work}: about {max(1, round(left / 60))} minutes")
