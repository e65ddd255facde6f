"""A global order of rows: what stands at a position, and a row's place in the data."""

from __future__ import annotations

from collections.abc import Sequence

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


Found = tuple[Row, Passed]  # a row, and how many were passed over for it


def joined(found: Sequence[Found]) -> tuple[list[Row], Passed]:
    """Rows, and all that were passed over for them."""
    return [row for row, _ in found], sum((passed for _, passed in found), Passed())


class Order:
    """Rows in global order."""

    # Positions until every row was read once on average; None if that is not known.
    pass_length: int | None

    def found(self, positions: Sequence[int]) -> list[Found]:
        """The rows at ascending positions."""
        raise NotImplementedError

    def sizes(self, positions: range) -> list[int]:
        """Lengths of the rows at consecutive positions, in bytes: estimates, equal on all ranks."""
        raise NotImplementedError

    def rows(self, positions: Sequence[int]) -> tuple[list[Row], Passed]:
        """The rows at ascending positions, and how many there were passed over."""
        return joined(self.found(positions))

    def first_places(self, positions: int) -> list[int]:
        """For each source, how many places of its first pass the first ``positions`` reach."""
        raise NotImplementedError

    def first_pass(self, source: int, places: range) -> tuple[list[Row], Passed]:
        """Like :meth:`rows`, at consecutive places of a source's first pass."""
        raise NotImplementedError
