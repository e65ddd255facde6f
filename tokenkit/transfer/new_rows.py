"""Making the rows of a new matrix: copied, weighted sums of old rows, or drawn.

Only chunks of rows are ever held in fp32, never a copy of a matrix.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

CHUNK_ROWS = 2048  # rows in fp32 at a time


@dataclass
class Combination:
    """New rows that are weighted sums of old ones.

    Attributes:
        targets: ids of the new rows, int64 ``[A]``.
        counts: old rows that each is a sum of, int64 ``[A]``, at least 1.
        sources: ids of those old rows, int64 ``[P]``, joined.
        weights: fp32 ``[P]``.
    """

    targets: Tensor
    counts: Tensor
    sources: Tensor
    weights: Tensor

    def __len__(self) -> int:
        return len(self.targets)

    @classmethod
    def join(cls, parts: list[Combination]) -> Combination:
        if not parts:
            none = torch.zeros(0, dtype=torch.long)
            return cls(none, none, none, none.float())
        names = ("targets", "counts", "sources", "weights")
        return cls(*(torch.cat([getattr(part, name) for part in parts]) for name in names))

    def chunks(self, rows: int | None = None) -> Iterator[Combination]:
        """Parts of at most ``rows`` new rows and about :data:`CHUNK_ROWS` old ones each."""
        rows = min(rows or CHUNK_ROWS, CHUNK_ROWS)
        ends = self.counts.cumsum(0)
        begin = first = 0
        while begin < len(self):
            # At least one new row, however many old ones it takes
            last = int(torch.searchsorted(ends, first + CHUNK_ROWS, right=True))
            end = min(max(last, begin + 1), begin + rows, len(self))
            old = slice(first, int(ends[end - 1]))
            new = slice(begin, end)
            yield Combination(
                self.targets[new], self.counts[new], self.sources[old], self.weights[old]
            )
            begin, first = end, old.stop

    def of(self, matrix: Tensor) -> Tensor:
        """The sums of a matrix's rows, fp32 ``[A, D]``."""
        device = matrix.device
        row = torch.repeat_interleave(torch.arange(len(self)), self.counts).to(device)
        old = matrix[self.sources.to(device)].float()
        old *= self.weights.to(device).unsqueeze(1)
        sums = torch.zeros(len(self), matrix.shape[1], device=device)
        return sums.index_add_(0, row, old)


def means(targets: Tensor, sources: Tensor, counts: Tensor) -> Combination:
    """Rows that are means of old ones; arguments as of :class:`Combination`."""
    weights = torch.repeat_interleave(1 / counts.double(), counts).float()
    return Combination(targets, counts, sources, weights)


def make_matrix(
    matrix: Tensor,
    rows: int,
    copied: tuple[Tensor, Tensor],
    composed: Combination,
    drawn: Tensor,
    generator: torch.Generator,
    spread: float = 1.0,
) -> Tensor:
    """A new matrix ``[rows, D]`` in the old one's dtype, on its device.

    Args:
        copied: new ids ``[C]`` and the old ids ``[C]`` whose rows they get.
        drawn: ids ``[F]`` of rows drawn from a normal distribution with the mean and ``spread``
            times the standard deviation of each of the old matrix's columns.
    """
    new = matrix.new_empty(rows, matrix.shape[1])
    device = matrix.device
    to, source = (ids.to(device) for ids in copied)
    for chunk, from_chunk in zip(to.split(CHUNK_ROWS), source.split(CHUNK_ROWS), strict=True):
        new[chunk] = matrix[from_chunk]
    for part in composed.chunks():
        new[part.targets.to(device)] = part.of(matrix).to(new.dtype)
    if len(drawn):
        mean, std = moments(matrix)
        for ids in drawn.split(CHUNK_ROWS):
            values = mean.expand(len(ids), -1)
            if spread:
                noise = torch.randn(len(ids), matrix.shape[1], generator=generator)
                values = values + spread * std * noise.to(device)
            new[ids.to(device)] = values.to(new.dtype)
    return new


def moments(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (of the population) of each column, fp32 ``[D]``.

    Combined chunk by chunk (Chan et al., 1979), so no fp32 copy of the matrix is made and no
    digits cancel.
    """
    count = 0
    mean = torch.zeros(matrix.shape[1], device=matrix.device)
    squares = torch.zeros_like(mean)
    for chunk in matrix.split(CHUNK_ROWS):
        chunk = chunk.float()
        n = len(chunk)
        shift = chunk.mean(0) - mean
        squares += (chunk - chunk.mean(0)).square().sum(0) + shift.square() * (
            count * n / (count + n)
        )
        mean += shift * (n / (count + n))
        count += n
    return mean, (squares / max(count, 1)).sqrt()


def unit_rows(matrix: Tensor, ids: Tensor) -> Tensor:
    """Rows of a matrix scaled to length 1 (rows of zeros stay), fp32 ``[N, D]``."""
    return torch.nn.functional.normalize(matrix[ids.to(matrix.device)].float(), dim=1)
