"""What two written forms of one row share: the intervals in which their bytes can be compared."""

from __future__ import annotations

from collections import deque
from functools import lru_cache

from tokenkit.tokenizers.chat.writing import Part
from tokenkit.tokenizers.rows import EncodedRow

UNIT = 3  # places of a unit on the common scale: its beginning, its inside on either side, its end
LONG_GAP = 1024  # bytes; longer ones are not remembered


# Bytes of either side that are the same text, or a unit that each writes in its own way: begin and
# end on side a, begin and end on side b, and whether it is a unit.
Interval = tuple[int, int, int, int, bool]


def shared_intervals(a: EncodedRow, b: EncodedRow) -> list[Interval]:
    """Intervals from left to right, apart on both sides.

    Equal bytes are one interval. Otherwise contents anchor the rest: between two contents that
    both sides have, units of one name match, and so does template text as far as it is equal from
    either end.
    """
    if a.data == b.data and not (a.marked and b.marked):
        return [(0, len(a.data), 0, len(b.data), False)]
    parts = a.parts(), b.parts()
    gaps = _Gaps(a, b, *parts)
    at_a = at_b = 0
    for interval in _contents(a.data, b.data, *parts):
        begin_a, end_a, begin_b, end_b, _ = interval
        gaps.fill(at_a, begin_a, at_b, begin_b)
        gaps.found.append(interval)
        at_a, at_b = end_a, end_b
    gaps.fill(at_a, len(a.data), at_b, len(b.data))
    return gaps.found


def _contents(a: bytes, b: bytes, parts_a: list[Part], parts_b: list[Part]) -> list[Interval]:
    """Stretches of contents that both sides have, in an order that both agree on."""
    mine, others = ([p for p in parts if p.kind == "content"] for parts in (parts_a, parts_b))
    keys = [part.key for part in mine]
    if keys == [part.key for part in others] and len(set(keys)) == len(keys):
        pairs = zip(mine, others, strict=True)  # as a rule
        overlaps = (_overlap(x, y, a, b) for x, y in pairs)
        return [interval for interval in overlaps if interval is not None]
    theirs: dict[object, list[Part]] = {}
    for part in others:
        theirs.setdefault(part.key, []).append(part)
    found: list[Interval] = []
    last_a = last_b = 0
    for part in mine:
        for other in theirs.get(part.key, []):
            interval = _overlap(part, other, a, b)
            if interval is None:
                continue
            begin_a, end_a, begin_b, end_b, _ = interval
            if begin_a >= last_a and begin_b >= last_b:
                found.append(interval)
                last_a, last_b = end_a, end_b
    return found


def _overlap(x: Part, y: Part, a: bytes, b: bytes) -> Interval | None:
    """What two stretches of one content have in common.

    ``at`` counts characters, so bytes are skipped by decoding the beginning that only one has.
    """
    begin_x, begin_y = x.begin, y.begin
    if x.at != y.at:
        begin_x += _bytes_of(a[x.begin : x.end], max(0, y.at - x.at))
        begin_y += _bytes_of(b[y.begin : y.end], max(0, x.at - y.at))
    size = min(x.end - begin_x, y.end - begin_y)
    if size <= 0:
        return None
    if a[begin_x : begin_x + size] != b[begin_y : begin_y + size]:
        size = _same_start(a[begin_x : begin_x + size], b[begin_y : begin_y + size])
        if not size:
            return None
    return begin_x, begin_x + size, begin_y, begin_y + size, False


def _bytes_of(data: bytes, characters: int) -> int:
    return len(data.decode(errors="replace")[:characters].encode()) if characters else 0


def _same_start(x: bytes, y: bytes) -> int:
    """Length of the common beginning."""
    low, high = 0, min(len(x), len(y))
    if x[:high] == y[:high] or x[:1] != y[:1]:
        return high if x[:1] == y[:1] else 0
    while low < high:
        middle = (low + high + 1) // 2
        if x[:middle] == y[:middle]:
            low = middle
        else:
            high = middle - 1
    return low


class _Gaps:
    """Collects intervals, matching what stands between contents."""

    def __init__(
        self, a: EncodedRow, b: EncodedRow, parts_a: list[Part], parts_b: list[Part]
    ) -> None:
        self.a, self.b = a.data, b.data
        self.units_a = deque(part for part in parts_a if part.kind == "unit")
        self.units_b = {part.key: part for part in parts_b if part.kind == "unit"}
        # What stands for one neutral marker is one unit, even if both sides write it alike.
        self.bind = a.marked and b.marked
        self.found: list[Interval] = []

    def fill(self, a: int, a_end: int, b: int, b_end: int) -> None:
        """Match the gap between two contents, or before the first or after the last."""
        units = []  # of the gap, on both sides
        while self.units_a and self.units_a[0].end <= a_end:
            unit = self.units_a.popleft()
            other = self.units_b.get(unit.key)
            if other is not None and unit.begin >= a and b <= other.begin and other.end <= b_end:
                units.append((unit.begin - a, unit.end - a, other.begin - b, other.end - b))
        x, y = self.a[a:a_end], self.b[b:b_end]
        match = _match if len(x) + len(y) <= LONG_GAP else _match.__wrapped__
        for begin_a, end_a, begin_b, end_b, whole in match(x, y, tuple(units), self.bind):
            self.found.append((begin_a + a, end_a + a, begin_b + b, end_b + b, whole))


@lru_cache(maxsize=4096)
def _match(
    x: bytes, y: bytes, units: tuple[tuple[int, int, int, int], ...], bind: bool
) -> list[Interval]:
    """Intervals of a gap; templates fill most of them with the same few texts."""
    if x == y and not bind:
        return [(0, len(x), 0, len(y), False)] if x else []
    found: list[Interval] = []
    a = b = 0
    for a_begin, a_end, b_begin, b_end in units:
        if b_begin < b:  # in another order on the other side
            continue
        found += _template(x, y, a, a_begin, b, b_begin)
        if a_begin < a_end and b_begin < b_end:
            whole = bind or x[a_begin:a_end] != y[b_begin:b_end]
            found.append((a_begin, a_end, b_begin, b_end, whole))
        a, b = a_end, b_end
    return found + _template(x, y, a, len(x), b, len(y))


def _template(x: bytes, y: bytes, a: int, a_end: int, b: int, b_end: int) -> list[Interval]:
    """Text of the templates, compared from both ends: first the header of what follows."""
    end = _same_start(x[a:a_end][::-1], y[b:b_end][::-1])
    start = _same_start(x[a : a_end - end], y[b : b_end - end])
    found: list[Interval] = []
    if start:
        found.append((a, a + start, b, b + start, False))
    if end:
        found.append((a_end - end, a_end, b_end - end, b_end, False))
    return found
