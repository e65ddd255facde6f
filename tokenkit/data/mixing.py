"""One global order of rows, a pure function of seed, sources and weights.

Position g of the order is the same whatever the number of ranks, workers or micro-batches. Rows
that say nothing are skipped: in an indexable source, such a row's place is taken by the next one
of the same pass (so that positions stay computable without reading what lies before them); in a
stream they are dropped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from tokenkit.data.order import BLOCK, Found, Order, joined, row_key
from tokenkit.data.read_row import RowFormat
from tokenkit.data.reader import Passed, Reader
from tokenkit.data.sources import Joined, Source, open_source, row_bytes
from tokenkit.data.streamed import StreamedOrder
from tokenkit.errors import ConfigError, DataError
from tokenkit.tokenizers import Row

if TYPE_CHECKING:
    from tokenkit.config import Config


class Passes:
    """Source number ``number`` repeated for ever, each pass in another order if shuffled.

    Attributes:
        keyed: whether rows come with their keys.
    """

    keyed = False

    def __init__(
        self, source: Source, reader: Reader, seed: int, number: int, shuffle: bool
    ) -> None:
        self.source, self.reader, self.number = source, reader, number
        self.seed, self.shuffle = seed, shuffle
        self._epoch, self._permutation = -1, np.zeros(0, dtype=np.uint32)
        self._first_places: np.ndarray | None = None

    def _shuffled(self, epoch: int) -> np.ndarray:
        size = len(self.source)
        permutation = np.random.default_rng((self.seed, self.number, epoch)).permutation(size)
        return permutation.astype(np.min_scalar_type(size))

    def _row(self, epoch: int, index: int) -> int:
        if not self.shuffle:
            return index
        if epoch != self._epoch:
            self._epoch, self._permutation = epoch, self._shuffled(epoch)
        return int(self._permutation[index])

    def _first_place(self, row: int) -> int:
        """Where a row stands in the first pass."""
        if not self.shuffle:
            return row
        if self._first_places is None:
            order = self._shuffled(0)
            self._first_places = np.empty_like(order)
            self._first_places[order] = np.arange(len(order), dtype=order.dtype)
        return int(self._first_places[row])

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
            row = self._row(epoch, (index + passed) % size)
            found = self.reader.at(self.source, row)
            if not isinstance(found, Passed):
                if self.keyed:
                    place = self._first_place(row) if epoch else index
                    found = replace(found, key=row_key(self.number, place))
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
        self.passes = [Passes(s, reader, seed, k, shuffle) for k, s in enumerate(sources)]
        self.pass_length: int | None = sum(len(source) for source in sources)
        self.seed = seed
        self._rewind()

    def _rewind(self) -> None:
        self._block = -1
        self._sources = self._indices = np.zeros(0, dtype=np.int64)
        self._before = np.zeros(len(self.passes), dtype=np.int64)  # rows before the next block

    def _sources_of(self, block: int) -> np.ndarray:
        count = len(self.passes)
        generator = np.random.default_rng((self.seed, count, block))
        return generator.choice(count, size=BLOCK, p=self.probabilities)

    def _next_block(self) -> None:
        """Source of each position of the block, and the position in that source's passes."""
        self._block += 1
        self._previous = self._sources, self._indices
        self._sources = self._sources_of(self._block)
        self._indices = np.empty(BLOCK, dtype=np.int64)
        for source in range(len(self.passes)):
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

    def first_places(self, positions: int) -> list[int]:
        counts = np.zeros(len(self.passes), dtype=np.int64)
        if len(counts) == 1:
            counts[0] = positions
        else:
            for block in range(-(-positions // BLOCK)):
                sources = self._sources_of(block)[: positions - block * BLOCK]
                counts += np.bincount(sources, minlength=len(counts))
        return [min(int(n), len(p.source)) for n, p in zip(counts, self.passes, strict=True)]

    def first_pass(self, source: int, places: range) -> tuple[list[Row], Passed]:
        return joined([self.passes[source].at(place) for place in places])


def build_order(config: Config, keyed: bool = False) -> Order:
    """The global order that ``[data]`` describes.

    Args:
        keyed: rows come with their keys, which from the second pass on takes memory.

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
    order = IndexedOrder(sources, data.weights, reader, seed, data.shuffle)
    for passes in order.passes:
        passes.keyed = keyed
    return order
