"""Rows that are passed over, and a look at all rows before training."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

from tokenkit.data.read_row import RowFormat, read_row
from tokenkit.data.sources import Source
from tokenkit.errors import DataError
from tokenkit.log import logger
from tokenkit.tokenizers import Row

CHECK_SECONDS = 60.0


class Passed(NamedTuple):
    """Rows that were passed over."""

    empty: int = 0
    bad: int = 0

    def __add__(self, other: Passed) -> Passed:  # type: ignore[override]
        return Passed(self.empty + other.empty, self.bad + other.bad)


class Reader:
    """Reads rows, and passes over those that say nothing or, if asked to, cannot be used.

    Attributes:
        last: where the last row stands.
    """

    def __init__(self, row_format: RowFormat, skip_bad: bool = False) -> None:
        self.row_format, self.skip_bad = row_format, skip_bad
        self.last = ""

    def at(self, source: Source, index: int) -> Row | Passed:
        """A source's row.

        Raises:
            DataError: if it is bad, unless bad ones are skipped.
        """
        try:
            row, self.last = source.read(index)
        except DataError as error:
            return self._bad(error)
        return self.read(row, self.last)

    def read(self, row: Any, where: str) -> Row | Passed:
        """Like :meth:`at` for a row that was read."""
        self.last = where
        try:
            found = read_row(row, where, self.row_format)
        except DataError as error:
            return self._bad(error)
        return Passed(empty=1) if found is None else found

    def _bad(self, error: DataError) -> Passed:
        if not self.skip_bad:
            raise error
        return Passed(bad=1)


def check_rows(sources: dict[str, Source], reader: Reader, look: Callable[[Row], object]) -> None:
    """Read the rows once, so that a bad one is not found after hours of training.

    After a minute the rest is left to be checked as it is read, which is said. Every rank looks at
    all rows, so that all end by the same error and none waits for another.

    Args:
        look: given each row; raises DataError if it cannot be used.

    Raises:
        DataError: at the first bad row, or if all rows of a source are empty.
    """
    end = time.monotonic() + CHECK_SECONDS
    for name, source in sources.items():
        empty = 0
        for index in range(len(source)):
            found = reader.at(source, index)
            if isinstance(found, Passed):
                empty += 1
            else:
                look(found)
            if time.monotonic() > end:
                logger.info(
                    f"data '{name}': {index + 1:,} of {len(source):,} rows checked in "
                    f"{CHECK_SECONDS:.0f} s; the others are when they are read (data.check)"
                )
                return
        if empty == len(source):
            raise DataError(f"{reader.last}: this row and all others of '{name}' are empty")
