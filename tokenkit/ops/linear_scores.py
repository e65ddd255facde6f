"""Scores of next tokens from hidden states, without ever keeping ``[N, V]`` logits.

Training by ALM or cross-entropy needs two numbers a position: the log-prob of the label and the
log of the probability mass on boundary tokens. Both are summed up block by block and blocks are
recomputed in backward, so memory is that of the hidden states plus a block. Where the rows of the
output matrix are spread over tensor-parallel ranks, each rank sums over its own and four numbers a
position are reduced.

With z the logits, p = softmax(z), m the boundary mask and P_m = Σ p m:

    d label_logprob / dz = onehot(label) − p
    d boundary_logprob / dz = p m / P_m − p
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from tokenkit.ops import gpu_compile
from tokenkit.ops.gpu_compile import compiled_on_gpu
from tokenkit.ops.logit_blocks import Head, LogitBlocks, multiply
from tokenkit.ops.online_softmax import Labels, OnlineSoftmax

# Least boundary mass, relative to the likeliest token, that fp32 tells apart from zero. Where the
# mass is smaller, or the mask empty, the log-prob stays finite (about −85) and has no gradient.
MASS_FLOOR = 1e-37


class Scores(NamedTuple):
    """Scores of N positions; fp32 (float64 for float64 inputs).

    The directions are the scores' gradients on the hidden states, for :func:`hidden_gradient`.
    """

    label_logprob: Tensor  # [N]
    boundary_logprob: Tensor | None  # [N]
    correct: Tensor | None = None  # [N] bool, no token is likelier than the label
    label_direction: Tensor | None = None  # [N, D]
    boundary_direction: Tensor | None = None  # [N, D]


class _Context(NamedTuple):
    """What is not a tensor."""

    head: Head
    first_row: int
    block: tuple[int, int] | None
    group: dist.ProcessGroup | None


class _LinearScores(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, weight, bias, labels, mask, context, keep):
        blocks = LogitBlocks(hidden, weight, bias, context.head, context.block)
        own = Labels(labels, context.first_row)
        mask = None if mask is None else mask[: context.head.valid_vocab].to(blocks.dtype)
        sums = OnlineSoftmax(blocks, mask, keep)
        for columns, matrix in blocks:
            for rows in blocks.rows:
                sums.add(blocks.logits(rows, columns, matrix), rows, columns, matrix, own)
        sums.reduce(context.group)
        label = (sums.at_label - sums.top - sums.total.log()).clamp_(max=0.0)
        log_mass = None
        if mask is not None:
            sums.mass.clamp_(min=MASS_FLOOR)
            log_mass = (sums.mass / sums.total).log_().clamp_(max=0.0)
        correct = sums.at_label >= sums.top
        directions = _directions(sums, label, weight, own, context) if keep else (None, None)
        ctx.context = context
        ctx.save_for_backward(
            hidden, weight, bias, labels, mask, sums.top, sums.total, sums.mass, sums.at_label,
            *directions,
        )  # fmt: skip
        kept = [tensor for tensor in directions if tensor is not None]
        ctx.mark_non_differentiable(correct, *kept)
        ctx.set_materialize_grads(False)
        return label, log_mass, correct, *directions

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_label, grad_mass, *_):
        hidden, weight, bias, labels, mask, top, total, mass, at_label, *directions = (
            ctx.saved_tensors
        )
        context = ctx.context
        if grad_label is None:
            grad_label = torch.zeros_like(total)
        inputs, needed = (hidden, weight, bias), list(ctx.needs_input_grad[:3])
        grads: list[Tensor | None] = [None, None, None]
        if needed[0] and directions[0] is not None:
            grads[0] = hidden_gradient(Scores(None, None, None, *directions), grad_label, grad_mass)
            needed[0] = False
        if any(needed):
            blocks = LogitBlocks(hidden, weight, bias, context.head, context.block)
            slope = blocks.label_slope(at_label)
            factors = _factors(grad_label, grad_mass, total, mass, context.head.logit_scale)
            rows = _BackwardRows(top, *factors, grad_label * slope)
            found = _recompute(blocks, rows, mask, Labels(labels, context.first_row), needed)
            if found[0] is not None and context.group is not None:
                dist.all_reduce(found[0], group=context.group)
            grads = [old if new is None else new for old, new in zip(grads, found, strict=True)]
        grads = [
            None if grad is None else grad.to(tensor.dtype)
            for grad, tensor in zip(grads, inputs, strict=True)
        ]
        return *grads, None, None, None, None


def _directions(
    sums: OnlineSoftmax, label_logprob: Tensor, weight: Tensor, labels: Labels, context: _Context
) -> tuple[Tensor, Tensor | None]:
    """Gradients ``[N, D]`` of both scores on the hidden states."""
    scale, slope = context.head.logit_scale, sums.blocks.label_slope(sums.at_label)
    everywhere = slice(0, context.head.valid_vocab)
    place, inside = labels.within(slice(None), everywhere)
    own = weight[place.squeeze(1)].to(sums.blocks.dtype) * inside[:, None]
    if context.group is not None:
        dist.all_reduce(own, group=context.group)
    others = sums.others.mul_((scale / sums.total)[:, None])
    label = torch.expm1(label_logprob).neg_().mul_(slope)[:, None] * own - others
    if sums.boundary is None:
        return label, None
    boundary = sums.boundary.mul_((scale / sums.mass)[:, None])
    boundary -= others + (label_logprob.exp() * slope)[:, None] * own
    impossible = sums.mass <= MASS_FLOOR
    return label, boundary.masked_fill_(impossible[:, None], 0.0)


def _factors(
    grad_label: Tensor, grad_mass: Tensor | None, total: Tensor, mass: Tensor | None, scale: float
) -> tuple[Tensor, Tensor | None]:
    """Factors ``[N]`` on e^(z − top) that make up the logits' gradient but for onehot(label).

    The first is for all tokens, the second is added for boundary tokens.
    """
    if grad_mass is None:
        return -scale * grad_label / total, None
    grad_mass = torch.where(mass > MASS_FLOOR, grad_mass, 0.0)
    return -scale * (grad_label + grad_mass) / total, scale * grad_mass / mass


class _BackwardRows(NamedTuple):
    """Per position ``[N]``: the highest logit, both factors, and the label's own gradient."""

    top: Tensor
    outside: Tensor
    inside: Tensor | None
    at_label: Tensor

    def at(self, rows: slice) -> _BackwardRows:
        return _BackwardRows(*(None if tensor is None else tensor[rows] for tensor in self))


def _recompute(
    blocks: LogitBlocks, state: _BackwardRows, mask: Tensor | None, labels: Labels, needed: list
) -> list[Tensor | None]:
    """Recompute the blocks; gradients on hidden, weight and bias, None where not needed."""
    hidden, weight, bias = blocks.hidden, blocks.weight, blocks.bias
    to_hidden = torch.zeros_like(hidden, dtype=blocks.dtype) if needed[0] else None
    to_weight = torch.zeros_like(weight) if needed[1] else None
    to_bias = torch.zeros_like(bias, dtype=blocks.dtype) if needed[2] else None
    for columns, matrix in blocks:
        sums = torch.empty_like(matrix, dtype=blocks.dtype) if needed[1] else None
        for k, rows in enumerate(blocks.rows):
            logits = blocks.logits(rows, columns, matrix)
            place, inside = labels.within(rows, columns)
            grad = _logit_gradient(blocks, logits, state.at(rows), mask, columns, place, inside)
            if to_bias is not None:
                on_bias = grad.sum(0, dtype=blocks.dtype)
                to_bias[columns] += on_bias[: columns.stop - columns.start]
            if to_hidden is not None:
                multiply(grad, matrix, to_hidden[rows], accumulate=True)
            if sums is not None:
                multiply(grad.T, hidden[rows], sums, accumulate=k > 0)
        if sums is not None and blocks.rows:
            to_weight[columns] = sums[: columns.stop - columns.start]
    return [to_hidden, to_weight, to_bias]


def _logit_gradient(
    blocks: LogitBlocks,
    logits: Tensor,
    state: _BackwardRows,
    mask: Tensor | None,
    columns: slice,
    place: Tensor,
    inside: Tensor,
) -> Tensor:
    """Gradient ``[n, c]`` on a block of logits (before scale and soft-cap), as a matmul's factor.

    Args:
        place, inside: of the labels, see :meth:`Labels.within`.
    """
    mask = None if state.inside is None else blocks.along(mask, columns)
    factors = blocks.slope(logits), state.top, state.outside, state.inside, mask
    own = torch.where(inside, state.at_label, 0.0)[:, None]
    if gpu_compile.wanted(logits):
        return logit_gradient_at_once(logits, *factors, place, own, blocks.factor_dtype)
    if logits.is_meta and blocks.factor_dtype != blocks.dtype:  # a GPU's, rehearsed: as above
        return torch.empty_like(logits, dtype=blocks.factor_dtype)
    room = None if mask is None else blocks.buffer("factor", *logits.shape)
    weighed = weigh(logits, *factors, room)
    return weighed.scatter_add_(1, place, own).to(blocks.factor_dtype)


@compiled_on_gpu
def logit_gradient_at_once(
    logits: Tensor,
    slope: Tensor | None,
    top: Tensor,
    outside: Tensor,
    inside: Tensor | None,
    mask: Tensor | None,
    place: Tensor,
    own: Tensor,
    dtype: torch.dtype,
) -> Tensor:
    """All of :func:`_logit_gradient` in one reading of the logits; they stay as they are."""
    p = (logits - top[:, None]).exp()
    if slope is not None:
        p = p * slope
    factor = outside[:, None]
    if mask is not None:
        factor = factor + torch.where(mask > 0, inside[:, None], 0.0)
    here = torch.arange(logits.shape[1], device=logits.device) == place
    return (p * factor + torch.where(here, own, 0.0)).to(dtype)


def weigh(
    logits: Tensor,
    slope: Tensor | None,
    top: Tensor,
    outside: Tensor,
    inside: Tensor | None,
    mask: Tensor | None,
    factor: Tensor | None,
) -> Tensor:
    """Overwrite a block ``[n, c]`` with e^(z − top) · slope · (outside + mask · inside).

    Args:
        factor: with a mask, room for as many numbers; new memory would cost more than the sums.
    """
    p = logits.sub_(top[:, None]).exp_()
    if slope is not None:
        p.mul_(slope)
    if mask is None:
        return p.mul_(outside[:, None])
    both = (outside + inside)[:, None]
    return p.mul_(torch.where(mask > 0, both, outside[:, None], out=factor))


def linear_scores(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    boundary_mask: Tensor | None,
    *,
    bias: Tensor | None = None,
    softcap: float | None = None,
    logit_scale: float = 1.0,
    valid_vocab: int | None = None,
    block: tuple[int, int] | None = None,
    keep_directions: bool = False,
    first_row: int = 0,
    group: dist.ProcessGroup | None = None,
) -> Scores:
    """Log-probs of labels and of the boundary set, differentiable in hidden, weight and bias.

    All sums are in fp32 (or float64); gradients have the dtypes of the inputs. Nothing is spent
    on inputs that need no gradient. With ``keep_directions``, the backward pass needs no matmul
    with the vocabulary for the hidden states' gradient.

    Args:
        hidden: ``[N, D]``.
        weight: ``[V, D]`` output matrix, in the dtype of ``hidden``.
        labels: ``[N]`` int64, below ``valid_vocab``.
        boundary_mask: ``[V]`` bool, or None if no boundary score is wanted.
        bias: ``[V]``.
        softcap: logits become ``softcap * tanh(logits / softcap)``.
        logit_scale: factor on the matmul's result plus bias, before the soft-cap.
        valid_vocab: rows of ``weight`` from here on have probability 0.
        block: rows and columns of a block of logits; by default as BLOCK_BYTES allow.
        keep_directions: keep what :func:`hidden_gradient` needs, ``[N, D]`` in fp32 (twice with
            a boundary mask).
        first_row: number of the first row of ``weight``, where ranks hold some rows each.
        group: these ranks. ``weight``, ``boundary_mask``, ``bias`` and ``valid_vocab`` are then
            this rank's part, ``hidden`` and ``labels`` the same on all ranks.
    """
    valid = len(weight) if valid_vocab is None else max(0, min(valid_vocab, len(weight)))
    context = _Context(Head(softcap, logit_scale, valid), first_row, block, group)
    results = _LinearScores.apply(
        hidden, weight, bias, labels, boundary_mask, context, keep_directions
    )
    return Scores(*results)


@torch.no_grad()
def hidden_gradient(scores: Scores, grad_label: Tensor, grad_boundary: Tensor | None) -> Tensor:
    """Gradient ``[N, D]`` on hidden states, given gradients ``[N]`` on the two scores.

    It is linear in them, ``grad_label · ∂label/∂h + grad_boundary · ∂boundary/∂h``, so that any
    number of losses on the same scores costs no further matmul with the vocabulary. Needs scores
    computed with ``keep_directions``; accumulation precision.
    """
    grad = grad_label[:, None] * scores.label_direction
    if grad_boundary is not None:
        grad += grad_boundary[:, None] * scores.boundary_direction
    return grad
