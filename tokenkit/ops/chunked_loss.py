"""The sum over positions of any function of their logits, a few rows of logits at a time.

Where the rows of the output matrix are spread over tensor-parallel ranks, each rank multiplies with
its own, and a block's columns are gathered: ``[n, V]`` logits instead of a whole ``[V, D]``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from tokenkit.ops.logit_blocks import (
    BLOCK_BYTES,
    Head,
    LogitBlocks,
    accumulation_dtype,
    multiply,
    round_up,
)

# function(logits [n, V], *rows [n, ...]) -> values [n]; fp32 (float64) logits it must not keep
LogitFunction = Callable[..., Tensor]


class OwnColumns(NamedTuple):
    """Which columns of the logits are this rank's.

    Attributes:
        first: the first of them.
        total: valid columns of all ranks.
        join: makes ``[n, total]`` of each rank's ``[n, ...]``, on all ranks.
        group: of these ranks.
    """

    first: int
    total: int
    join: Callable[[Tensor], Tensor]
    group: dist.ProcessGroup


def rows_per_block(hidden: Tensor, vocab: int) -> int:
    """As many rows of logits as BLOCK_BYTES hold."""
    device = hidden.device.type if hidden.device.type in BLOCK_BYTES else "cpu"
    return max(1, BLOCK_BYTES[device] // (accumulation_dtype(hidden.dtype).itemsize * vocab))


class _ChunkedLoss(torch.autograd.Function):
    """A sum's gradient is known up to a factor, so it is taken while the logits are there."""

    @staticmethod
    def forward(ctx, function, hidden, weight, bias, head, block, train, own, *extras):
        blocks = LogitBlocks(hidden, weight, bias, head, (block, max(head.valid_vocab, 1)))
        total = hidden.new_zeros((), dtype=blocks.dtype)
        needed = [need and train for need in ctx.needs_input_grad[1:4]]
        room = round_up(len(weight), blocks.alignment), weight.shape[1]  # for whole blocks
        shapes = hidden.shape, room, None if bias is None else bias.shape
        grads = [
            hidden.new_zeros(shape, dtype=blocks.dtype) if need else None
            for shape, need in zip(shapes, needed, strict=True)
        ]
        columns = slice(0, head.valid_vocab)  # none at all, perhaps, but others wait for them
        matrix = blocks.aligned(weight[columns].to(blocks.factor_dtype).T).T
        for rows in blocks.rows:
            here = blocks.logits(rows, columns, matrix)[:, : head.valid_vocab]
            logits = here if own is None else own.join(here)
            given = [extra[rows] for extra in extras]
            if not any(needed):
                total += function(logits, *given).sum()
                continue
            with torch.enable_grad():
                value = function(logits.requires_grad_(), *given).sum()
            (on_logits,) = torch.autograd.grad(value, logits)
            total += value.detach()
            if own is not None:
                on_logits = on_logits[:, own.first : own.first + head.valid_vocab]
            on_logits = _before_softcap(blocks, here.detach(), on_logits)
            _add_gradients(grads, blocks, on_logits, rows, columns, matrix)
        if own is not None and grads[0] is not None:
            dist.all_reduce(grads[0], group=own.group)
        if grads[1] is not None:
            grads[1] = grads[1][: len(weight)]
        ctx.save_for_backward(*grads)
        ctx.dtypes = [None if t is None else t.dtype for t in (hidden, weight, bias)]
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        grads = [
            None if found is None else (found * grad).to(dtype)
            for found, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        ]
        return None, *grads, *[None] * (len(ctx.needs_input_grad) - 4)


def _add_gradients(
    grads: list[Tensor | None],
    blocks: LogitBlocks,
    on_logits: Tensor,
    rows: slice,
    columns: slice,
    matrix: Tensor,
) -> None:
    """Add a block's part of the gradients on hidden states, matrix and bias."""
    to_hidden, to_weight, to_bias = grads
    if to_bias is not None:
        to_bias[columns] += on_logits.sum(0)
    on_logits = blocks.aligned(on_logits.to(blocks.factor_dtype))
    if to_hidden is not None:
        multiply(on_logits, matrix, to_hidden[rows])
    if to_weight is not None:
        whole = to_weight[columns.start : columns.start + len(matrix)]
        multiply(on_logits.T, blocks.hidden[rows], whole, accumulate=True)


def _before_softcap(blocks: LogitBlocks, logits: Tensor, grad: Tensor) -> Tensor:
    """Gradient before scale and soft-cap."""
    if blocks.head.softcap is not None:
        grad = grad * blocks.slope(logits)
    return grad if blocks.head.logit_scale == 1.0 else grad * blocks.head.logit_scale


def chunked_loss(
    function: LogitFunction,
    hidden: Tensor,
    weight: Tensor,
    *rows: Tensor,
    bias: Tensor | None = None,
    softcap: float | None = None,
    logit_scale: float = 1.0,
    valid_vocab: int | None = None,
    rows_of_block: int | None = None,
    own: OwnColumns | None = None,
) -> Tensor:
    """Σ ``function(logits, *rows)`` over positions, differentiable in hidden, weight and bias.

    No more than a block of logits (and what ``function`` makes of it) is alive at a time. Gradients
    ``[N, D]`` and ``[V, D]`` are kept in fp32 instead, so that nothing is computed twice.

    Args:
        function: maps logits ``[n, V]`` of some positions (fp32; float64 for float64 inputs) and
            the same positions' ``rows`` to values ``[n]``. It must not keep the logits.
        hidden: ``[N, D]``.
        weight: ``[V, D]``, in the dtype of ``hidden``.
        rows: tensors ``[N, ...]``, without gradient.
        bias, softcap, logit_scale, valid_vocab: as in ``linear_scores``; columns from
            ``valid_vocab`` on are not there at all.
        rows_of_block: positions at a time; default as many as fit in BLOCK_BYTES.
        own: where each of several ranks holds some rows of one matrix; ``weight``, ``bias`` and
            ``valid_vocab`` are then this rank's part, all else is the same on all ranks.

    Returns:
        0-d, fp32 (float64 for float64 inputs).
    """
    valid = len(weight) if valid_vocab is None else min(valid_vocab, len(weight))
    head = Head(softcap, logit_scale, valid)
    block = rows_of_block or rows_per_block(hidden, valid if own is None else own.total)
    train = torch.is_grad_enabled()
    return _ChunkedLoss.apply(function, hidden, weight, bias, head, block, train, own, *rows)
