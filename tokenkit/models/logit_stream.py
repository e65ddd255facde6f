"""Any function of a position's logits, for all positions, a few rows of logits at a time."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from tokenkit.models.logit_blocks import (
    BLOCK_BYTES,
    Head,
    LogitBlocks,
    accumulation_dtype,
    multiply,
)

# function(logits [n, V], *rows [n, ...]) -> values [n]; fp32 (float64) logits it must not keep
LogitFunction = Callable[..., Tensor]


def rows_per_block(hidden: Tensor, vocab: int) -> int:
    """As many rows of logits as BLOCK_BYTES hold."""
    device = hidden.device.type if hidden.device.type in BLOCK_BYTES else "cpu"
    return max(1, BLOCK_BYTES[device] // (accumulation_dtype(hidden.dtype).itemsize * vocab))


class _LogitStream(torch.autograd.Function):
    @staticmethod
    def forward(ctx, function, hidden, weight, bias, head, rows_of_block, *extras):
        blocks = LogitBlocks(hidden, weight, bias, head, (rows_of_block, head.valid_vocab))
        values = hidden.new_empty(len(hidden), dtype=blocks.dtype)
        for columns, matrix in blocks:
            for rows in blocks.rows:
                logits = blocks.logits(rows, columns, matrix)
                values[rows] = function(logits, *[extra[rows] for extra in extras])
        ctx.function, ctx.head, ctx.rows_of_block = function, head, rows_of_block
        ctx.save_for_backward(hidden, weight, bias, *extras)
        return values

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        hidden, weight, bias, *extras = ctx.saved_tensors
        head, needed = ctx.head, ctx.needs_input_grad[1:4]
        blocks = LogitBlocks(hidden, weight, bias, head, (ctx.rows_of_block, head.valid_vocab))
        to_hidden, to_weight, to_bias = (
            torch.zeros_like(tensor, dtype=blocks.dtype) if need else None
            for tensor, need in zip((hidden, weight, bias), needed, strict=True)
        )
        for columns, matrix in blocks:
            for rows in blocks.rows:
                logits = blocks.logits(rows, columns, matrix).requires_grad_()
                with torch.enable_grad():
                    values = ctx.function(logits, *[extra[rows] for extra in extras])
                (on_logits,) = torch.autograd.grad(values, logits, grad[rows])
                on_logits = _before_softcap(blocks, logits.detach(), on_logits)
                if to_bias is not None:
                    to_bias[columns] += on_logits.sum(0)
                on_logits = on_logits.to(blocks.factor_dtype)
                if to_hidden is not None:
                    multiply(on_logits, matrix, to_hidden[rows])
                if to_weight is not None:
                    multiply(on_logits.T, blocks.hidden[rows], to_weight[columns], accumulate=True)
        grads = [
            None if found is None else found.to(tensor.dtype)
            for found, tensor in zip(
                (to_hidden, to_weight, to_bias), (hidden, weight, bias), strict=True
            )
        ]
        return None, *grads, None, None, *[None] * len(extras)


def _before_softcap(blocks: LogitBlocks, logits: Tensor, grad: Tensor) -> Tensor:
    """Gradient before scale and soft-cap."""
    if blocks.head.softcap is not None:
        grad = grad * blocks.slope(logits)
    return grad if blocks.head.logit_scale == 1.0 else grad * blocks.head.logit_scale


def stream_logits(
    function: LogitFunction,
    hidden: Tensor,
    weight: Tensor,
    *rows: Tensor,
    bias: Tensor | None = None,
    softcap: float | None = None,
    logit_scale: float = 1.0,
    valid_vocab: int | None = None,
    rows_of_block: int | None = None,
) -> Tensor:
    """``function(logits, *rows)`` of every position, differentiable in hidden, weight and bias.

    No more than a block of logits (and what ``function`` makes of it) is alive at a time; they
    are recomputed in backward.

    Args:
        function: maps logits ``[n, V]`` of some positions (fp32; float64 for float64 inputs) and
            the same positions' ``rows`` to values ``[n]``. It must not keep the logits.
        hidden: ``[N, D]``.
        weight: ``[V, D]``, in the dtype of ``hidden``.
        rows: tensors ``[N, ...]``, without gradient.
        bias, softcap, logit_scale, valid_vocab: as in ``linear_scores``; columns from
            ``valid_vocab`` on are not there at all.
        rows_of_block: positions at a time; default as many as fit in BLOCK_BYTES.

    Returns:
        ``[N]``.
    """
    valid = len(weight) if valid_vocab is None else min(valid_vocab, len(weight))
    head = Head(softcap, logit_scale, valid)
    block = rows_of_block or rows_per_block(hidden, valid)
    return _LogitStream.apply(function, hidden, weight, bias, head, block, *rows)
