"""Scores of next tokens from hidden states, without ever keeping ``[N, V]`` logits.

Training by ALM or cross-entropy needs two numbers a position: the log-prob of the label and the
log of the probability mass on boundary tokens. Both are computed for a block of rows at a time
and the block is recomputed in backward, so memory is that of the hidden states plus two blocks.

With z the logits, p = softmax(z), m the boundary mask and P_m = Σ p m:

    d label_logprob / dz = onehot(label) − p
    d boundary_logprob / dz = p m / P_m − p
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from tokenkit.models.logit_blocks import Head, LogitBlocks, default_chunk_rows, multiply

# Least boundary mass, relative to the likeliest token, that fp32 tells apart from zero. Where the
# mass is smaller, or the mask empty, the log-prob stays finite (about −85) and has no gradient.
MASS_FLOOR = 1e-37


class Scores(NamedTuple):
    """Scores of N positions; fp32 (float64 for float64 inputs).

    The last three are what :func:`hidden_gradient` needs, arranged so that nothing cancels: the
    label's own term stays apart from the sum over the other tokens. z' is the slope of soft-cap
    and scale.
    """

    label_logprob: Tensor  # [N]
    boundary_logprob: Tensor | None  # [N]
    expected: Tensor | None = None  # [N, D] Σ_{v ≠ label} p_v z'_v W_v
    expected_boundary: Tensor | None = None  # [N, D] Σ_v (p m / P_m − p)_v z'_v W_v
    label_slope: Tensor | None = None  # [N] (1 − p_label) z'_label


class _Rows(NamedTuple):
    """What backward knows of each row. Masses are relative to the likeliest token."""

    labels: Tensor  # [N]
    top: Tensor  # [N] highest logit
    total: Tensor  # [N] Σ e^(z − top)
    mass: Tensor | None  # [N] Σ e^(z − top) m, at least MASS_FLOOR

    def at(self, rows: slice) -> _Rows:
        """Views of some rows."""
        return _Rows(*(None if tensor is None else tensor[rows] for tensor in self))

    def factors(
        self, grad_label: Tensor, grad_mass: Tensor | None, scale: float
    ) -> tuple[Tensor, Tensor | None]:
        """Factors ``[n]`` on e^(z − top) that make up the logits' gradient but for onehot(label).

        The first is for all tokens, the second is added for boundary tokens.
        """
        if grad_mass is None:
            return -scale * grad_label / self.total, None
        grad_mass = torch.where(self.mass > MASS_FLOOR, grad_mass, 0.0)
        outside = -scale * (grad_label + grad_mass) / self.total
        return outside, scale * grad_mass / self.mass


class _LinearScores(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, weight, bias, labels, mask, head, keep):
        blocks = LogitBlocks(hidden, weight, bias, head)
        label, top, total = hidden.new_empty(3, len(hidden), dtype=blocks.dtype)
        state = _Rows(labels, top, total, None if mask is None else torch.empty_like(total))
        mask = None if mask is None else mask[: head.valid_vocab].to(blocks.dtype)
        kept = _empty_expectations(blocks, mask) if keep else (None, None, None)
        for rows, logits in blocks:
            here = state.at(rows)
            slope = blocks.slope(logits) if keep else None
            torch.amax(logits, 1, out=here.top)
            logits.sub_(here.top[:, None])
            at_label = logits.gather(1, here.labels[:, None]).squeeze(1)
            p = logits.exp_()
            torch.sum(p, 1, out=here.total)
            torch.sub(at_label, here.total.log(), out=label[rows])
            if mask is not None:
                torch.mv(p, mask, out=here.mass).clamp_(min=MASS_FLOOR)
            if keep:
                _keep_expectations(kept, rows, blocks, p, slope, here, label[rows], mask)
        label.clamp_(max=0.0)
        log_mass = None if mask is None else (state.mass / total).log_().clamp_(max=0.0)
        ctx.save_for_backward(hidden, weight, bias, mask, *state, *kept)
        ctx.head = head
        ctx.mark_non_differentiable(*[tensor for tensor in kept if tensor is not None])
        ctx.set_materialize_grads(False)
        return label, log_mass, *kept

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_label, grad_mass, *_):
        hidden, weight, bias, mask, *state, expected, expected_boundary, label_slope = (
            ctx.saved_tensors
        )
        state = _Rows(*state)
        if grad_label is None:
            grad_label = torch.zeros_like(state.total)
        inputs, needed = (hidden, weight, bias), ctx.needs_input_grad[:3]
        grads = [
            torch.zeros_like(tensor, dtype=state.total.dtype) if need else None
            for tensor, need in zip(inputs, needed, strict=True)
        ]
        missing = list(grads)
        if needed[0] and expected is not None:
            scores = Scores(None, None, expected, expected_boundary, label_slope)
            grads[0] = hidden_gradient(scores, weight, state.labels, grad_label, grad_mass)
            missing[0] = None
        if any(grad is not None for grad in missing):
            blocks = LogitBlocks(hidden, weight, bias, ctx.head)
            _add_gradients(*missing, blocks, state, mask, grad_label, grad_mass)
        grads = [
            None if grad is None else grad.to(tensor.dtype)
            for grad, tensor in zip(grads, inputs, strict=True)
        ]
        return *grads, None, None, None, None


def _add_gradients(
    to_hidden: Tensor | None,
    to_weight: Tensor | None,
    to_bias: Tensor | None,
    blocks: LogitBlocks,
    state: _Rows,
    mask: Tensor | None,
    grad_label: Tensor,
    grad_mass: Tensor | None,
) -> None:
    """Recompute each block's probabilities and add the gradients that are asked for."""
    scale, valid = blocks.head.logit_scale, blocks.head.valid_vocab
    outside, inside = state.factors(grad_label, grad_mass, scale)
    for rows, logits in blocks:
        here = state.at(rows)
        slope = blocks.slope(logits)
        at_label = grad_label[rows] * blocks.slope_at(slope, here.labels)
        p = logits.sub_(here.top[:, None]).exp_()
        if slope is not None:
            p.mul_(slope)
        grad = blocks.weigh(p, outside[rows], None if inside is None else inside[rows], mask)
        grad.scatter_add_(1, here.labels[:, None], at_label[:, None])
        if to_bias is not None:
            to_bias[:valid] += grad.sum(0)
        grad = grad.to(blocks.factor_dtype)
        if to_hidden is not None:
            multiply(grad, blocks.weight, to_hidden[rows])
        if to_weight is not None:
            multiply(grad.T, blocks.hidden[rows], to_weight[:valid], accumulate=True)


def _empty_expectations(blocks: LogitBlocks, mask: Tensor | None) -> tuple[Tensor | None, ...]:
    expected = torch.empty_like(blocks.hidden, dtype=blocks.dtype)
    boundary = None if mask is None else torch.empty_like(expected)
    return expected, boundary, expected.new_empty(len(expected))


def _keep_expectations(
    kept: tuple[Tensor | None, ...],
    rows: slice,
    blocks: LogitBlocks,
    p: Tensor,
    slope: Tensor | None,
    here: _Rows,
    label_logprob: Tensor,
    mask: Tensor | None,
) -> None:
    """Fill some rows of :class:`Scores`' last three from ``p`` = e^(z − top), overwriting it."""
    expected, expected_boundary, label_slope = kept
    scale = blocks.head.logit_scale
    at_label = blocks.slope_at(slope, here.labels)
    torch.mul(torch.expm1(label_logprob).neg_(), at_label, out=label_slope[rows])
    if slope is not None:
        p.mul_(slope)
    if mask is not None:
        zero, one = torch.zeros_like(here.total), torch.ones_like(here.total)
        grad = blocks.weigh(p, *here.factors(zero, one, scale), mask)
        multiply(grad.to(blocks.factor_dtype), blocks.weight, expected_boundary[rows])
    p.mul_((scale / here.total)[:, None]).scatter_(1, here.labels[:, None], 0.0)
    multiply(p.to(blocks.factor_dtype), blocks.weight, expected[rows])


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
    chunk_rows: int | None = None,
    keep_expectations: bool = False,
) -> Scores:
    """Log-probs of labels and of the boundary set, differentiable in hidden, weight and bias.

    All sums are in fp32 (or float64); gradients have the dtypes of the inputs. Nothing is spent
    on inputs that need no gradient. With ``keep_expectations``, the backward pass needs no matmul
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
        chunk_rows: most rows in a block; by default as many as fit in BLOCK_BYTES.
        keep_expectations: keep what :func:`hidden_gradient` needs, ``[N, D]`` in fp32 (twice with
            a boundary mask).
    """
    valid = len(weight) if valid_vocab is None else min(valid_vocab, len(weight))
    rows = chunk_rows or default_chunk_rows(hidden, valid)
    head = Head(softcap, logit_scale, valid, rows)
    results = _LinearScores.apply(
        hidden, weight, bias, labels, boundary_mask, head, keep_expectations
    )
    return Scores(*results)


@torch.no_grad()
def hidden_gradient(
    scores: Scores,
    weight: Tensor,
    labels: Tensor,
    grad_label: Tensor,
    grad_boundary: Tensor | None,
) -> Tensor:
    """Gradient ``[N, D]`` on hidden states, given gradients ``[N]`` on the two scores.

    It is linear in them, ``grad_label · ∂label/∂h + grad_boundary · ∂boundary/∂h``, so that any
    number of losses on the same scores costs no further matmul with the vocabulary. Needs scores
    computed with ``keep_expectations``; accumulation precision.
    """
    grad = (grad_label * scores.label_slope)[:, None] * weight[labels]
    grad -= grad_label[:, None] * scores.expected
    if grad_boundary is not None:
        grad += grad_boundary[:, None] * scores.expected_boundary
    return grad
