"""Scores of next tokens from hidden states, without ever keeping ``[N, V]`` logits.

Training by ALM or cross-entropy needs two numbers a position: the log-prob of the label and the
log of the probability mass on boundary tokens. Both are computed for a few rows at a time and
recomputed in backward, so memory is that of the hidden states.

With z the logits, p = softmax(z), m the boundary mask and P_m = Σ p m:

    d label_logprob / dz = onehot(label) − p
    d boundary_logprob / dz = p m / P_m − p
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

CHUNK_BYTES = 32 * 2**20  # of one block of logits
LOG_FLOOR = -1e4  # boundary log-prob where no boundary token exists


class Scores(NamedTuple):
    """Scores of N positions; fp32 (float64 for float64 inputs)."""

    label_logprob: Tensor  # [N]
    boundary_logprob: Tensor | None  # [N]
    expected: Tensor | None  # [N, D] E_p = Σ p_v z'_v W_v
    expected_boundary: Tensor | None  # [N, D] E_m = Σ (p m / P_m)_v z'_v W_v
    label_slope: Tensor | None  # [N] z'_label: derivative of the soft-cap and scale


class _Head(NamedTuple):
    """What turns hidden states into logits, besides the matrices."""

    softcap: float | None
    logit_scale: float
    chunk_rows: int


def _accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, head: _Head) -> Tensor:
    """Logits ``[n, V]`` of one block in accumulation precision, soft-capped."""
    logits = (hidden @ weight.T).to(_accumulation_dtype(hidden.dtype))
    if bias is not None:
        logits += bias
    if head.logit_scale != 1.0:
        logits *= head.logit_scale
    if head.softcap is not None:
        logits.div_(head.softcap).tanh_().mul_(head.softcap)
    return logits


def _slope(logits: Tensor, head: _Head) -> Tensor | None:
    """Derivative of capped logits by the matmul's result, or None where it is 1."""
    if head.softcap is None:
        return None
    return (logits / head.softcap).square_().neg_().add_(1.0)


class _LinearScores(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, weight, bias, labels, boundary, head, keep):
        n = len(hidden)
        dtype = _accumulation_dtype(hidden.dtype)
        mask = None if boundary is None else boundary.to(dtype)
        lse, label = (hidden.new_empty(n, dtype=dtype) for _ in range(2))
        mass = None if mask is None else torch.empty_like(lse)
        kept = [None, None, None]
        if keep:
            kept = [torch.empty_like(hidden), None, torch.empty_like(lse)]
            if mask is not None:
                kept[1] = torch.empty_like(hidden)
        for begin in range(0, n, head.chunk_rows):
            rows = slice(begin, begin + head.chunk_rows)
            logits = _logits(hidden[rows], weight, bias, head)
            slope = _slope(logits, head) if keep else None
            label[rows] = logits.gather(1, labels[rows, None]).squeeze(1)
            lse[rows] = torch.logsumexp(logits, dim=1)
            if mask is None and not keep:
                continue
            p = logits.sub_(lse[rows, None]).exp_()
            if mask is not None:
                mass[rows] = p @ mask
            if keep:
                _keep_expectations(kept, rows, p, slope, mask, mass, weight, labels, head)
        label.sub_(lse).clamp_(max=0.0)
        log_mass = None
        if mass is not None:
            log_mass = mass.log().clamp_(min=LOG_FLOOR, max=0.0)
        ctx.save_for_backward(hidden, weight, bias, labels, mask, lse, mass)
        ctx.head = head
        ctx.mark_non_differentiable(*[t for t in kept if t is not None])
        return label, log_mass, *kept

    @staticmethod
    def backward(ctx, grad_label, grad_mass, *_):
        hidden, weight, bias, labels, mask, lse, mass = ctx.saved_tensors
        need_hidden, need_weight, need_bias = ctx.needs_input_grad[:3]
        head, dtype = ctx.head, lse.dtype
        grad_hidden = torch.empty_like(hidden) if need_hidden else None
        grad_weight = torch.zeros_like(weight, dtype=dtype) if need_weight else None
        grad_bias = torch.zeros_like(bias, dtype=dtype) if need_bias else None
        total = grad_label.to(dtype).neg()
        if grad_mass is not None and mask is not None:
            total = total - grad_mass
            inside = torch.where(mass > 0, grad_mass / mass.clamp(min=1e-37), 0.0)
        else:
            inside = None
        for begin in range(0, len(hidden), head.chunk_rows):
            rows = slice(begin, begin + head.chunk_rows)
            logits = _logits(hidden[rows], weight, bias, head)
            slope = _slope(logits, head)
            grad = logits.sub_(lse[rows, None]).exp_()
            if inside is None:
                grad.mul_(total[rows, None])
            else:
                grad.mul_(torch.outer(inside[rows], mask).add_(total[rows, None]))
            grad.scatter_add_(1, labels[rows, None], grad_label[rows, None].to(dtype))
            if slope is not None:
                grad.mul_(slope)
            if head.logit_scale != 1.0:
                grad.mul_(head.logit_scale)
            if need_bias:
                grad_bias += grad.sum(0)
            grad = grad.to(hidden.dtype)
            if need_hidden:
                torch.mm(grad, weight, out=grad_hidden[rows])
            if need_weight:
                if grad_weight.dtype == grad.dtype:
                    grad_weight.addmm_(grad.T, hidden[rows])
                else:
                    grad_weight += grad.T @ hidden[rows]
        grad_weight = None if grad_weight is None else grad_weight.to(weight.dtype)
        grad_bias = None if grad_bias is None else grad_bias.to(bias.dtype)
        return grad_hidden, grad_weight, grad_bias, None, None, None, None


def _keep_expectations(kept, rows, p, slope, mask, mass, weight, labels, head) -> None:
    """Fill E_p, E_m and the label's slope of one block from its probabilities."""
    factor = head.logit_scale
    if slope is None:
        kept[2][rows] = factor
    else:
        kept[2][rows] = factor * slope.gather(1, labels[rows, None]).squeeze(1)
        p = p * slope
    kept[0][rows] = (factor * (p.to(weight.dtype) @ weight)).to(kept[0].dtype)
    if mask is not None:
        inside = (p * mask / mass[rows, None].clamp(min=1e-37)).to(weight.dtype)
        kept[1][rows] = (factor * (inside @ weight)).to(kept[1].dtype)


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

    Args:
        hidden: ``[N, D]``.
        weight: ``[V, D]`` output matrix.
        labels: ``[N]`` int64.
        boundary_mask: ``[V]`` bool, or None if no boundary score is wanted.
        bias: ``[V]``.
        softcap: logits become ``softcap * tanh(logits / softcap)``.
        logit_scale: factor on the matmul's result, before the soft-cap.
        valid_vocab: rows of ``weight`` from here on have probability 0.
        chunk_rows: rows a block; by default a block of logits takes about 32 MB.
        keep_expectations: keep what :func:`hidden_gradient` needs.
    """
    if valid_vocab is not None and valid_vocab < len(weight):
        weight = weight[:valid_vocab]
        bias = None if bias is None else bias[:valid_vocab]
        boundary_mask = None if boundary_mask is None else boundary_mask[:valid_vocab]
    size = _accumulation_dtype(hidden.dtype).itemsize
    rows = chunk_rows or max(16, CHUNK_BYTES // (size * len(weight)))
    head = _Head(softcap, logit_scale, rows)
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

    ``g_label (z'_y W_y − E_p) + g_boundary (E_m − E_p)``: no matmul with the vocabulary.
    Needs scores computed with ``keep_expectations``.
    """
    slope = (scores.label_slope * grad_label)[:, None]
    grad = slope * weight[labels] - grad_label[:, None] * scores.expected
    if grad_boundary is not None:
        grad += grad_boundary[:, None] * (scores.expected_boundary - scores.expected)
    return grad
