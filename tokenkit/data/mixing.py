"""One global order of rows, a pure function of seed, sources and weights.

Position g of the order is the same whatever the number of ranks, workers or micro-batches. Rows
that say nothing are skipped: in an indexable source, such a row's place is taken by the next one
of the same pass (so that positions stay computable without reading what lies before them); in a
stream they are dropped.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch.utils.data import get_worker_info

from tokenkit.data.read_row import RowFormat, text_of
from tokenkit.data.reader import Passed, Reader
from tokenkit.data.sources import Joined, Source, iterate_source, open_source, row_bytes
from tokenkit.errors import ConfigError, DataError
from tokenkit.log import logger
from tokenkit.tokenizers import Row

if TYPE_CHECKING:
    from tokenkit.config import Config

BLOCK = 4096  # positions whose sources are drawn at once


Found = tuple[Row, Passed]  # a row, and how many were passed over for it


def together(found: Sequence[Found]) -> tuple[list[Row], Passed]:
    """Rows, and how many there were passed over."""
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
        return together(self.found(positions))


class Passes:
    """A source repeated for ever, each pass in another order if shuffled."""

    def __init__(
        self, source: Source, reader: Reader, seed: tuple[int, ...], shuffle: bool
    ) -> None:
        self.source, self.reader = source, reader
        self.seed, self.shuffle = seed, shuffle
        self._epoch, self._permutation = -1, np.zeros(0, dtype=np.uint32)

    def _row(self, epoch: int, index: int) -> int:
        if not self.shuffle:
            return index
        if epoch != self._epoch:
            size = len(self.source)
            permutation = np.random.default_rng((*self.seed, epoch)).permutation(size)
            self._permutation = permutation.astype(np.min_scalar_type(size))
            self._epoch = epoch
        return int(self._permutation[index])

    def size(self, position: int) -> int:
        """Bytes of the row at a position, even if another stands in for it."""
        return row_bytes(self.source, self._row(*divmod(position, len(self.source))))

    def at(self, position: int) -> Found:
        """The row at a position, and for what others than the one there it stands in.

        Raises:
            DataError: if the row is bad, or all rows are empty.
        """
        size = len(self.source)
        epoch, index = divmod(position, size)
        first = Passed()
        for passed in range(size):
            found = self.reader.at(self.source, self._row(epoch, (index + passed) % size))
            if not isinstance(found, Passed):
                return found, first
            first = first if passed else found
        raise DataError(
            f"{self.reader.last}: this row and all others of its source are empty or bad"
        )


class IndexedOrder(Order):
    """Indexable sources; a position can be reached without reading what lies before it.

    With weights, the sources of each block of positions are drawn by a generator of that block.
    """

    def __init__(
        self,
        sources: list[Source],
        weights: list[float],
        reader: Reader,
        seed: int,
        shuffle: bool,
    ) -> None:
        if not weights:  # proportional to size: one pass is one pass over everything
            sources, weights = [Joined(sources)], [1.0]
        self.probabilities = np.array(weights) / np.sum(weights)
        self.passes = [Passes(s, reader, (seed, k), shuffle) for k, s in enumerate(sources)]
        self.pass_length: int | None = sum(len(source) for source in sources)
        self.seed = seed
        self._rewind()

    def _rewind(self) -> None:
        self._block = -1
        self._sources = self._indices = np.zeros(0, dtype=np.int64)
        self._before = np.zeros(len(self.passes), dtype=np.int64)  # rows before the next block

    def _next_block(self) -> None:
        """Source of each position of the block, and the position in that source's passes."""
        count = len(self.passes)
        self._block += 1
        self._previous = self._sources, self._indices
        generator = np.random.default_rng((self.seed, count, self._block))
        self._sources = generator.choice(count, size=BLOCK, p=self.probabilities)
        self._indices = np.empty(BLOCK, dtype=np.int64)
        for source in range(count):
            mine = np.flatnonzero(self._sources == source)
            self._indices[mine] = self._before[source] + np.arange(len(mine))
            self._before[source] += len(mine)

    def _locate(self, position: int) -> tuple[int, int]:
        if len(self.passes) == 1:
            return 0, position
        block, offset = divmod(position, BLOCK)
        if 0 <= block == self._block - 1:  # a step is looked at twice, and may be in two blocks
            sources, indices = self._previous
            return int(sources[offset]), int(indices[offset])
        if block < self._block:
            self._rewind()
        while self._block < block:
            self._next_block()
        return int(self._sources[offset]), int(self._indices[offset])

    def found(self, positions: Sequence[int]) -> list[Found]:
        return [self.passes[k].at(index) for k, index in map(self._locate, positions)]

    def sizes(self, positions: range) -> list[int]:
        return [self.passes[k].size(index) for k, index in map(self._locate, positions)]


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

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_iterator": None, "_position": 0, "_held": (range(0), [])}

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

    def _mixed(self) -> Iterator[Found]:
        read = self._shuffled if self.buffer > 1 else self._plain
        streams = [read(number) for number in range(len(self.names))]
        generator = np.random.default_rng((self.seed, len(streams)))
        while True:
            for source in generator.choice(len(streams), size=BLOCK, p=self.probabilities):
                yield next(streams[source])

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


def build_order(config: Config) -> Order:
    """The global order that ``[data]`` describes.

    Raises:
        ConfigError, DataError: if a source or weight cannot be used.
    """
    data, seed = config.data, config.job.seed
    reader = Reader(RowFormat.of(config), skip_bad=data.on_bad_row == "skip")
    if not data.train:
        raise ConfigError("data.train is empty: name files or folders, or hf:dataset, to train on")
    if data.weights and len(data.weights) != len(data.train):
        raise ConfigError(
            f"data.weights has {len(data.weights)} entries for {len(data.train)} in data.train"
        )
    if data.streaming:
        buffer = data.shuffle_buffer if data.shuffle else 0
        return StreamedOrder(data.train, data.split, data.weights, reader, seed, buffer)
    sources = [open_source(name, data.split, data.text_field) for name in data.train]
    return IndexedOrder(sources, data.weights, reader, seed, data.shuffle)
