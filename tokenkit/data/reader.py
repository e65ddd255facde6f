"""Rows that are read, and those that are passed over."""

from __future__ import annotations

from typing import Any, NamedTuple

from tokenkit.data.read_row import RowFormat, read_row
from tokenkit.data.sources import Source
from tokenkit.errors import DataError
from tokenkit.tokenizers import Row


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
