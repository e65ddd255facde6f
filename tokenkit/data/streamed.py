"""The global order of streamed sources, which can only be read from the beginning."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from torch.utils.data import get_worker_info

from tokenkit.data.order import BLOCK, Found, Order, joined, row_key
from tokenkit.data.read_row import text_of
from tokenkit.data.reader import Passed, Reader
from tokenkit.data.sources import iterate_source
from tokenkit.errors import DataError
from tokenkit.log import logger
from tokenkit.tokenizers import Row


class StreamedOrder(Order):
    """Streamed sources, each shuffled in a buffer within a pass, mixed by weight.

    Every process reads (and skips) what others take, and resuming reads what came before: cheap
    beside training for the usual millions of rows, but not free. Indexable sources only seek.
    """

    pass_length: int | None = None

    def __init__(
        self,
        names: list[str],
        split: str,
        weights: list[float],
        reader: Reader,
        seed: int,
        buffer: int,
    ) -> None:
        self.names, self.split, self.reader = names, split, reader
        self.seed, self.buffer = seed, buffer
        weights = weights or [1.0] * len(names)
        self.probabilities = np.array(weights) / np.sum(weights)
        self.announces = False  # whether this rank reports skipped rows
        self._position = 0
        self._iterator: Iterator[Found] | None = None
        self._held: tuple[range, list[Found]] = range(0), []  # rows whose sizes were asked
        self._single: dict[int, tuple[int, Iterator[Found]]] = {}

    def __getstate__(self) -> dict[str, Any]:
        fresh = {"_iterator": None, "_position": 0, "_held": (range(0), []), "_single": {}}
        return {**self.__dict__, **fresh}

    def _filtered(self, name: str, first: bool) -> Iterator[Found]:
        """Rows of one pass, each with those passed over just before it."""
        rows, all_passed, passed = 0, Passed(), Passed()
        text_field = self.reader.row_format.text_field
        for row, where in iterate_source(name, self.split, text_field):
            rows += 1
            found = self.reader.read(row, where)
            if isinstance(found, Passed):
                all_passed, passed = all_passed + found, passed + found
            else:
                yield found, passed
                passed = Passed()
        if rows == sum(all_passed):
            raise DataError(f"data '{name}' has no rows{' with text' if rows else ''}")
        worker = get_worker_info()
        if not (first and self.announces and (worker is None or worker.id == 0)):
            return
        for kind, number in all_passed._asdict().items():
            if number:
                logger.warning(
                    f"data '{name}': {number:,} of {rows:,} rows are {kind} and were skipped"
                )

    def _shuffled(self, number: int) -> Iterator[Found]:
        """One source for ever; a pass ends when its buffer is empty."""
        epoch = 0
        while True:
            generator = np.random.default_rng((self.seed, number, epoch))
            held: list[Found] = []
            for item in self._filtered(self.names[number], first=epoch == 0):
                if len(held) < self.buffer:
                    held.append(item)
                    continue
                index = int(generator.integers(self.buffer))
                held[index], item = item, held[index]
                yield item
            generator.shuffle(held)
            yield from held
            epoch += 1

    def _plain(self, number: int) -> Iterator[Found]:
        first = True
        while True:
            yield from self._filtered(self.names[number], first)
            first = False

    def _stream(self, number: int) -> Iterator[Found]:
        """One source for ever, its rows with their keys."""
        read = self._shuffled if self.buffer > 1 else self._plain
        for place, (row, passed) in enumerate(read(number)):
            yield replace(row, key=row_key(number, place)), passed

    def _drawn(self) -> Iterator[np.ndarray]:
        """Sources of consecutive positions, block by block."""
        generator = np.random.default_rng((self.seed, len(self.names)))
        while True:
            yield generator.choice(len(self.names), size=BLOCK, p=self.probabilities)

    def _mixed(self) -> Iterator[Found]:
        streams = [self._stream(number) for number in range(len(self.names))]
        for sources in self._drawn():
            for source in sources:
                yield next(streams[source])

    def first_places(self, positions: int) -> list[int]:
        counts = np.zeros(len(self.names), dtype=np.int64)
        for block, sources in zip(range(-(-positions // BLOCK)), self._drawn(), strict=False):
            held = sources[: positions - block * BLOCK]
            counts += np.bincount(held, minlength=len(counts))
        return counts.tolist()

    def first_pass(self, source: int, places: range) -> tuple[list[Row], Passed]:
        at, stream = self._single.get(source, (0, None))
        if stream is None or places.start < at:
            at, stream = 0, self._stream(source)
        for _ in range(places.start - at):
            next(stream)
        self._single[source] = (places.stop, stream)
        return joined([next(stream) for _ in places])

    def found(self, positions: Sequence[int]) -> list[Found]:
        held, rows = self._held
        if all(position in held for position in positions):
            return [rows[position - held.start] for position in positions]
        return list(map(self._next, positions))

    def _next(self, position: int) -> Found:
        if self._iterator is None or position < self._position:
            self._iterator, self._position = self._mixed(), 0
        while self._position < position:
            next(self._iterator)
            self._position += 1
        self._position += 1
        return next(self._iterator)

    def sizes(self, positions: range) -> list[int]:
        self._held = positions, list(map(self._next, positions))
        return [len(text_of(row).encode()) for row, _ in self._held[1]]
