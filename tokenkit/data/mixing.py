"""One global order of rows, a pure function of seed, sources and weights.

Position g of the order is the same whatever the number of ranks, workers or micro-batches.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np

from tokenkit.data.sources import Joined, Source, open_source, stream_source
from tokenkit.errors import ConfigError

BLOCK = 4096


class Order(Protocol):
    """Rows in global order."""

    def rows(self, positions: range) -> list[tuple[Any, str]]:
        """The rows at consecutive positions; positions asked for never go back."""
        ...


class _Shuffled:
    """A source repeated for ever, each pass in another order."""

    def __init__(self, source: Source, seed: tuple[int, ...], shuffle: bool) -> None:
        self.source, self.seed, self.shuffle = source, seed, shuffle
        self._epoch, self._permutation = -1, np.zeros(0, dtype=np.int64)

    def read(self, position: int) -> tuple[Any, str]:
        epoch, index = divmod(position, len(self.source))
        if self.shuffle:
            if epoch != self._epoch:
                generator = np.random.default_rng((*self.seed, epoch))
                self._permutation = generator.permutation(len(self.source))
                self._epoch = epoch
            index = int(self._permutation[index])
        return self.source.read(index)


class IndexedOrder:
    """Indexable sources; a position can be reached without reading what lies before it."""

    def __init__(self, sources: list[Source], weights: list[float], seed: int, shuffle: bool):
        if not weights:  # proportional to size: one pass is one pass over everything
            sources, weights = [Joined(sources)], [1.0]
        self.probabilities = np.array(weights) / np.sum(weights)
        self.sources = [_Shuffled(s, (seed, k), shuffle) for k, s in enumerate(sources)]
        self.seed = seed
        self._block, self._counts = 0, np.zeros(len(sources), dtype=np.int64)

    def _draw(self, block: int) -> np.ndarray:
        generator = np.random.default_rng((self.seed, len(self.sources), block))
        return generator.choice(len(self.sources), size=BLOCK, p=self.probabilities)

    def _choice(self, position: int) -> tuple[int, int]:
        """Source of a position, and how many rows of it came before."""
        block, offset = divmod(position, BLOCK)
        if block < self._block:
            self._block, self._counts = 0, np.zeros_like(self._counts)
        while self._block < block:
            self._counts += np.bincount(self._draw(self._block), minlength=len(self.sources))
            self._block += 1
        drawn = self._draw(block)
        source = int(drawn[offset])
        return source, int(self._counts[source] + (drawn[:offset] == source).sum())

    def rows(self, positions: range) -> list[tuple[Any, str]]:
        if len(self.sources) == 1:
            return [self.sources[0].read(position) for position in positions]
        choices = [self._choice(position) for position in positions]
        return [self.sources[source].read(index) for source, index in choices]


class StreamedOrder:
    """Streamed sources, shuffled in a buffer. Resuming reads and skips what came before."""

    def __init__(
        self, names: list[str], split: str, weights: list[float], seed: int, buffer: int
    ) -> None:
        self.names, self.split, self.seed, self.buffer = names, split, seed, buffer
        weights = weights or [1.0] * len(names)
        self.probabilities = np.array(weights) / np.sum(weights)
        self._position = 0
        self._iterator: Iterator[tuple[Any, str]] | None = None

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_iterator": None, "_position": 0}

    def _mixed(self) -> Iterator[tuple[Any, str]]:
        generator = np.random.default_rng(self.seed)
        streams = [stream_source(name, self.split) for name in self.names]
        while True:
            for source in generator.choice(len(streams), size=BLOCK, p=self.probabilities):
                yield next(streams[source])

    def _shuffled(self) -> Iterator[tuple[Any, str]]:
        if self.buffer <= 1:
            yield from self._mixed()
        generator = np.random.default_rng((self.seed, 1))
        held: list[tuple[Any, str]] = []
        for row in self._mixed():
            if len(held) < self.buffer:
                held.append(row)
                continue
            index = int(generator.integers(self.buffer))
            held[index], row = row, held[index]
            yield row

    def rows(self, positions: range) -> list[tuple[Any, str]]:
        if self._iterator is None or positions.start < self._position:
            self._iterator, self._position = self._shuffled(), 0
        while self._position < positions.start:
            next(self._iterator)
            self._position += 1
        self._position += len(positions)
        return [next(self._iterator) for _ in positions]


def build_order(config: Any) -> Order:
    """The global order that ``[data]`` describes.

    Raises:
        ConfigError, DataError: if a source or weight cannot be used.
    """
    data, seed = config.data, config.job.seed
    if data.weights and len(data.weights) != len(data.train):
        raise ConfigError(
            f"data.weights has {len(data.weights)} entries for {len(data.train)} in data.train"
        )
    if data.streaming:
        buffer = data.shuffle_buffer if data.shuffle else 0
        return StreamedOrder(data.train, data.split, data.weights, seed, buffer)
    sources = [open_source(name, data.split) for name in data.train]
    return IndexedOrder(sources, data.weights, seed, data.shuffle)
