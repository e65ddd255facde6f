"""Logits of many positions, one block of rows × columns at a time in a buffer all blocks share.

Blocks are cut along both axes: many rows, so that a block of the output matrix is read (and its
gradient written) once, and few columns, so that the buffer stays small however large the
vocabulary is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

# Size of one block of logits: large enough for matmuls at full speed, small beside the rest of a
# training step. CPU: measured; glibc takes ones of 32 MiB from the kernel, page by page, each time.
BLOCK_BYTES = {"cpu": 31 * 2**20, "cuda": 512 * 2**20}
MOST_ROWS = {"cpu": 4096, "cuda": 8192}
# Widths of blocks are multiples of this: a GPU's fast matmuls want rows that begin at multiples of
# 16 bytes, and a vocabulary may have an odd number of tokens.
ALIGNMENT = {"cpu": 1, "cuda": 64}
MIXED: tuple[str, ...] = ("cuda",)  # devices that multiply low-precision factors into fp32


class Head(NamedTuple):
    """What turns hidden states into logits, besides the matrices."""

    softcap: float | None  # logits become softcap * tanh(logits / softcap)
    logit_scale: float  # factor on the logits before the soft-cap
    valid_vocab: int  # rows of the matrix from here on belong to no token


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of logits and sums: fp32, or float64 for float64 inputs."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def default_block(hidden: Tensor, vocab: int) -> tuple[int, int]:
    """Rows and columns of a block that fills BLOCK_BYTES."""
    device = hidden.device.type if hidden.device.type in BLOCK_BYTES else "cpu"
    elements = BLOCK_BYTES[device] // accumulation_dtype(hidden.dtype).itemsize
    rows = max(1, min(len(hidden), MOST_ROWS[device]))
    return rows, max(1, min(elements // rows, vocab))


def multiply(a: Tensor, b: Tensor, out: Tensor, accumulate: bool = False) -> None:
    """``out = a @ b`` or ``out += a @ b``, in fp32 also where the factors are low-precision."""
    if out.is_meta:  # the planner rehearses with such tensors, for which torch has no out_dtype
        return
    options = {} if out.dtype == b.dtype else {"out_dtype": out.dtype}
    if accumulate:
        torch.addmm(out, a, b, out=out, **options)
    else:
        torch.mm(a, b, out=out, **options)


def round_up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple


def equal_slices(size: int, most: int, multiple: int = 1) -> list[slice]:
    """Cut ``range(size)`` into slices of (nearly) equal length, each of at most ``most``.

    All but the last are multiples of ``multiple``, which may make them longer than that.
    """
    count = max(1, math.ceil(size / most))
    step = round_up(max(1, math.ceil(size / count)), multiple)
    return [slice(begin, min(begin + step, size)) for begin in range(0, size, step)]


class LogitBlocks:
    """Blocks of ``hidden [N, D] @ weight[:valid].T + bias``, scaled and soft-capped.

    A block is valid until the next one is asked for, and may be overwritten. It may be wider than
    the slice of columns that it stands for (see ALIGNMENT): a logit of no token is −inf.

    Attributes:
        hidden: ``[N, D]`` in the dtype that :func:`multiply` takes.
    """

    def __init__(
        self,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        head: Head,
        block: tuple[int, int] | None = None,
    ) -> None:
        self.head = head
        self.dtype = accumulation_dtype(hidden.dtype)
        # Elsewhere low-precision factors are converted.
        self.factor_dtype = hidden.dtype if hidden.device.type in MIXED else self.dtype
        self.hidden = hidden.to(self.factor_dtype)
        self.weight, self.bias = weight, bias
        rows, columns = block or default_block(hidden, head.valid_vocab)
        self.alignment = ALIGNMENT.get(hidden.device.type, 1)
        self.rows = equal_slices(len(hidden), rows)
        self.columns = equal_slices(head.valid_vocab, columns, self.alignment)
        self._shape = (rows, round_up(columns, self.alignment))
        self._buffers: dict[str, Tensor] = {}

    def buffer(self, name: str, rows: int, columns: int) -> Tensor:
        """Memory ``[rows, columns]`` that all blocks share, for one purpose at a time."""
        if name not in self._buffers:
            size = self._shape[0] * self._shape[1]
            self._buffers[name] = self.hidden.new_empty(size, dtype=self.dtype)
        return self._buffers[name][: rows * columns].view(rows, columns)

    def __iter__(self) -> Iterator[tuple[slice, Tensor]]:
        """Columns and the output matrix's rows for them ``[c, D]``, ready for :func:`multiply`.

        Rows of zeros are added to those of the last columns, if need be.
        """
        for columns in self.columns:
            matrix = self.weight[columns].to(self.factor_dtype)
            yield columns, self.aligned(matrix.T).T

    def along(self, per_column: Tensor, columns: slice) -> Tensor:
        """A block's part of a tensor ``[V]``, 0 where the block is wider than it."""
        part = per_column[columns]
        return torch.nn.functional.pad(part, (0, -len(part) % self.alignment))

    def aligned(self, block: Tensor) -> Tensor:
        """A block ``[n, c]`` with columns of zeros to make it as wide as a matmul wants."""
        more = -block.shape[1] % self.alignment
        return torch.nn.functional.pad(block, (0, more)) if more else block

    def logits(self, rows: slice, columns: slice, weight: Tensor) -> Tensor:
        """One block ``[n, c]``; ``weight`` is what was given with ``columns``."""
        hidden = self.hidden[rows]
        logits = self.buffer("logits", len(hidden), len(weight))
        multiply(hidden, weight.T, logits)
        if self.bias is not None:
            logits[:, : columns.stop - columns.start].add_(self.bias[columns])
        if self.head.logit_scale != 1.0:
            logits.mul_(self.head.logit_scale)
        if self.head.softcap is not None:
            logits.div_(self.head.softcap).tanh_().mul_(self.head.softcap)
        if logits.shape[1] > columns.stop - columns.start:
            logits[:, columns.stop - columns.start :] = -torch.inf
        return logits

    def slope(self, logits: Tensor) -> Tensor | None:
        """Slope of the soft-cap at a block ``[n, c]``; None where it is 1."""
        if self.head.softcap is None:
            return None
        one, scale = logits.new_ones(()), -1.0 / self.head.softcap**2
        out = self.buffer("slope", *logits.shape)
        slope = torch.addcmul(one, logits, logits, value=scale, out=out)
        return slope if self.alignment == 1 else slope.clamp_(min=0.0)  # −inf where no token is

    def label_slope(self, at_label: Tensor) -> Tensor | float:
        """Slope ``[N]`` of soft-cap and scale at the labels' logits ``[N]``."""
        if self.head.softcap is None:
            return self.head.logit_scale
        return (1.0 - (at_label / self.head.softcap).square()) * self.head.logit_scale
