"""Which rows of a step are whose: dealt to ranks and micro-batches by length, or in order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Slice:
    """A rank's share of a step: all ranks' micro-batches are together ``batch_size`` rows."""

    batch_size: int
    micro_batch_size: int
    dp_rank: int
    dp_size: int

    @property
    def accumulation(self) -> int:
        """Micro-batches of a rank and step."""
        return self.batch_size // (self.micro_batch_size * self.dp_size)

    def step(self, step: int) -> range:
        """Positions of all of a step's rows in the global order."""
        return range(step * self.batch_size, (step + 1) * self.batch_size)

    def in_order(self, step: int) -> list[range]:
        """Positions of each micro-batch; ranks take turns."""
        positions, unit = self.step(step), self.micro_batch_size
        turns = range(self.dp_rank, self.accumulation * self.dp_size, self.dp_size)
        return [positions[turn * unit : (turn + 1) * unit] for turn in turns]

    def by_length(self, step: int, sizes: Sequence[int]) -> list[list[int]]:
        """The same, so that rows of a micro-batch, and ranks' k-th micro-batches, are alike.

        Rows are sorted, the longest first, and cut into micro-batches. Ranks take turns, forward
        and backward, so that none has the longer one each time.

        Args:
            sizes: of all rows of the step, equal on all ranks; nothing but their order matters.
        """
        begin, unit, ranks = self.step(step).start, self.micro_batch_size, self.dp_size
        longest_first = np.argsort(-np.asarray(sizes), kind="stable") + begin
        turns = [
            part * ranks + (self.dp_rank if part % 2 == 0 else ranks - 1 - self.dp_rank)
            for part in range(self.accumulation)
        ]
        return [sorted(longest_first[turn * unit : (turn + 1) * unit].tolist()) for turn in turns]
