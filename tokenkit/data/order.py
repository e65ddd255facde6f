"""A global order of rows: what stands at a position, and a row's place in the data."""

from __future__ import annotations

from typing import Protocol

from tokenkit.data.reader import Passed
from tokenkit.tokenizers import Row

BLOCK = 4096  # positions whose sources are drawn at once
PLACES = 2**40  # of a source's rows, more than any has


def row_key(source: int, place: int) -> int:
    """A row by where it stands in the first pass over its source, whichever pass it is read in.

    In a stream, which is not known before it was read, passes count on.
    """
    return source * PLACES + place


def place_of(key: int) -> tuple[int, int]:
    """Source and place of a row's key."""
    return divmod(key, PLACES)


class Order(Protocol):
    """Rows in global order."""

    # Positions until every row was read once on average; None if that is not known.
    pass_length: int | None

    def rows(self, positions: range) -> tuple[list[Row], Passed]:
        """The rows at consecutive positions, and how many there were passed over."""
        ...

    def first_places(self, positions: int) -> list[int]:
        """For each source, how many places of its first pass the first ``positions`` reach."""
        ...

    def first_pass(self, source: int, places: range) -> tuple[list[Row], Passed]:
        """Like :meth:`rows`, at consecutive places of a source's first pass."""
        ...


def joined(found: list[tuple[Row, Passed]]) -> tuple[list[Row], Passed]:
    """Rows, and all that were passed over for them."""
    return [row for row, _ in found], sum((passed for _, passed in found), Passed())
