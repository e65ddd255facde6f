"""The global order of streamed sources, which can only be read from the beginning."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from torch.utils.data import get_worker_info

from tokenkit.data.order import BLOCK, joined, row_key
from tokenkit.data.reader import Passed, Reader
from tokenkit.data.sources import iterate_source
from tokenkit.errors import DataError
from tokenkit.log import logger
from tokenkit.tokenizers import Row


class StreamedOrder:
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
        self._iterator: Iterator[tuple[Row, Passed]] | None = None
        self._single: dict[int, tuple[int, Iterator[tuple[Row, Passed]]]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_iterator": None, "_position": 0, "_single": {}}

    def _filtered(self, name: str, first: bool) -> Iterator[tuple[Row, Passed]]:
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

    def _shuffled(self, number: int) -> Iterator[tuple[Row, Passed]]:
        """One source for ever; a pass ends when its buffer is empty."""
        epoch = 0
        while True:
            generator = np.random.default_rng((self.seed, number, epoch))
            held: list[tuple[Row, Passed]] = []
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

    def _plain(self, number: int) -> Iterator[tuple[Row, Passed]]:
        first = True
        while True:
            yield from self._filtered(self.names[number], first)
            first = False

    def _stream(self, number: int) -> Iterator[tuple[Row, Passed]]:
        """One source for ever, its rows with their keys."""
        read = self._shuffled if self.buffer > 1 else self._plain
        for place, (row, passed) in enumerate(read(number)):
            yield replace(row, key=row_key(number, place)), passed

    def _drawn(self) -> Iterator[np.ndarray]:
        """Sources of consecutive positions, block by block."""
        generator = np.random.default_rng((self.seed, len(self.names)))
        while True:
            yield generator.choice(len(self.names), size=BLOCK, p=self.probabilities)

    def _mixed(self) -> Iterator[tuple[Row, Passed]]:
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

    def rows(self, positions: range) -> tuple[list[Row], Passed]:
        if self._iterator is None or positions.start < self._position:
            self._iterator, self._position = self._mixed(), 0
        while self._position < positions.start:
            next(self._iterator)
            self._position += 1
        found = []
        for _ in positions:
            found.append(next(self._iterator))
            self._position += 1
        return joined(found)
