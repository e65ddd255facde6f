"""Logits of many positions, one block of rows at a time in a buffer that all blocks share."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

# Size of one block of logits: large enough for matmuls at full speed (CPU: measured with
# benchmarks/linear_scores.py), small beside the rest of a training step.
BLOCK_BYTES = {"cpu": 64 * 2**20, "cuda": 512 * 2**20}


class Head(NamedTuple):
    """What turns hidden states into logits, besides the matrices."""

    softcap: float | None  # logits become softcap * tanh(logits / softcap)
    logit_scale: float  # factor on the logits before the soft-cap
    valid_vocab: int  # rows of the matrix from here on are padding
    chunk_rows: int  # most rows in a block


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of logits and sums: fp32, or float64 for float64 inputs."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def default_chunk_rows(hidden: Tensor, vocab: int) -> int:
    """As many rows as BLOCK_BYTES of logits hold."""
    row = accumulation_dtype(hidden.dtype).itemsize * vocab
    return max(1, BLOCK_BYTES.get(hidden.device.type, BLOCK_BYTES["cpu"]) // row)


def multiply(a: Tensor, b: Tensor, out: Tensor, accumulate: bool = False) -> None:
    """``out = a @ b`` or ``out += a @ b``, in fp32 also where the factors are low-precision."""
    options = {} if out.dtype == b.dtype else {"out_dtype": out.dtype}
    if accumulate:
        torch.addmm(out, a, b, out=out, **options)
    else:
        torch.mm(a, b, out=out, **options)


class LogitBlocks:
    """Iterates over ``(rows, logits [n, V])`` of ``hidden [N, D] @ weight[:valid].T + bias``.

    A block is valid until the next one is asked for, and may be overwritten. Attributes
    ``hidden`` and ``weight`` are the factors in the dtype that :func:`multiply` takes.
    """

    def __init__(self, hidden: Tensor, weight: Tensor, bias: Tensor | None, head: Head) -> None:
        self.head = head
        self.dtype = accumulation_dtype(hidden.dtype)
        # Only CUDA multiplies low-precision factors into fp32; elsewhere they are converted.
        self.factor_dtype = hidden.dtype if hidden.device.type == "cuda" else self.dtype
        self.hidden = hidden.to(self.factor_dtype)
        self.weight = weight[: head.valid_vocab].to(self.factor_dtype)
        self.bias = None if bias is None else bias[: head.valid_vocab]
        # Blocks of equal size: a small last one would be slow.
        count = max(1, math.ceil(len(hidden) / head.chunk_rows))
        self.rows = max(1, math.ceil(len(hidden) / count))
        self._buffer = torch.empty(
            self.rows, len(self.weight), dtype=self.dtype, device=hidden.device
        )
        self._scratch: Tensor | None = None

    def __iter__(self) -> Iterator[tuple[slice, Tensor]]:
        softcap, scale = self.head.softcap, self.head.logit_scale
        for begin in range(0, len(self.hidden), self.rows):
            hidden = self.hidden[begin : begin + self.rows]
            logits = self._buffer[: len(hidden)]
            multiply(hidden, self.weight.T, logits)
            if self.bias is not None:
                logits.add_(self.bias)
            if scale != 1.0:
                logits.mul_(scale)
            if softcap is not None:
                logits.div_(softcap).tanh_().mul_(softcap)
            yield slice(begin, begin + len(hidden)), logits

    def scratch(self, n: int) -> Tensor:
        """Another buffer ``[n, V]``, for one purpose at a time."""
        if self._scratch is None:
            self._scratch = torch.empty_like(self._buffer)
        return self._scratch[:n]

    def slope(self, logits: Tensor) -> Tensor | None:
        """Slope of the soft-cap at ``logits``, in the scratch buffer; None where it is 1."""
        if self.head.softcap is None:
            return None
        one, scale = logits.new_ones(()), -1.0 / self.head.softcap**2
        return torch.addcmul(one, logits, logits, value=scale, out=self.scratch(len(logits)))

    def slope_at(self, slope: Tensor | None, labels: Tensor) -> Tensor | float:
        """Slope ``[n]`` of soft-cap and scale at the labels' logits."""
        if slope is None:
            return self.head.logit_scale
        return slope.gather(1, labels[:, None]).squeeze(1) * self.head.logit_scale

    def weigh(
        self, p: Tensor, outside: Tensor, inside: Tensor | None, mask: Tensor | None
    ) -> Tensor:
        """``p · (outside + inside · mask)``, factors ``[n]``, mask ``[V]``.

        The result is in the scratch buffer, or takes the place of ``p`` if ``inside`` is None.
        """
        if inside is None:
            return p.mul_(outside[:, None])
        factor = torch.outer(inside, mask, out=self.scratch(len(p)))
        return factor.add_(outside[:, None]).mul_(p)
