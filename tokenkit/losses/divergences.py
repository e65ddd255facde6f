"""Divergences between a student's and a teacher's next-token distributions over one vocabulary.

Names as in DSKD (Zhang et al., arXiv 2406.17328). With p the teacher and q the student:

    kl    Σ p log p/q          forward KL
    rkl   Σ q log q/p          reverse KL
    js    ½ KL(p‖m) + ½ KL(q‖m), m = (p + q) / 2
    skl   KL(p ‖ λ p + (1 − λ) q)   skewed (DistiLLM, arXiv 2402.03898)
    srkl  KL(q ‖ (1 − λ) p + λ q)   skewed reverse
    akl   a·kl + (1 − a)·rkl, a = the head's share of Σ|p − q|, where the tail are the teacher's
          least likely tokens, whose probabilities add up to less than α (arXiv 2404.02657)
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

DIVERGENCES = ("kl", "rkl", "js", "skl", "srkl", "akl")


@dataclass(frozen=True)
class Divergence:
    """One divergence with its settings.

    Attributes:
        name: one of the above.
        kd_temp: divides the logits of both sides.
        teacher_temperature: divides the teacher's once more.
        alpha: of akl.
        skew: λ of skl and srkl.
        scale: factor on the result. Gradients on logits shrink as 1 / kd_temp², so that Hinton et
            al. (arXiv 1503.02531, §2) multiply by kd_temp² beside losses at temperature 1.
    """

    name: str = "kl"
    kd_temp: float = 1.0
    teacher_temperature: float = 1.0
    alpha: float = 0.5
    skew: float = 0.1
    scale: float = 1.0

    def __call__(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Divergence per position ``[...]`` of logits ``[..., V]``; gradient for the student's."""
        log_q = (student / self.kd_temp).log_softmax(-1)
        log_p = (teacher / (self.kd_temp * self.teacher_temperature)).log_softmax(-1)
        return self.scale * self._between(log_p, log_q)

    def _between(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        if self.name == "kl":
            return _kl(log_p, log_q)
        if self.name == "rkl":
            return _kl(log_q, log_p)
        if self.name == "js":
            middle = _mix(log_p, log_q, 0.5)
            return 0.5 * (_kl(log_p, middle) + _kl(log_q, middle))
        if self.name == "skl":
            return _kl(log_p, _mix(log_p, log_q, self.skew))
        if self.name == "srkl":
            return _kl(log_q, _mix(log_q, log_p, self.skew))
        assert self.name == "akl"
        head = _head_share(log_p, log_q.detach(), self.alpha)
        return head * _kl(log_p, log_q) + (1.0 - head) * _kl(log_q, log_p)


def _kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def _mix(log_a: Tensor, log_b: Tensor, share: float) -> Tensor:
    """log(share · a + (1 − share) · b)."""
    return torch.logaddexp(log_a + math.log(share), log_b + math.log1p(-share))


def _head_share(log_p: Tensor, log_q: Tensor, alpha: float) -> Tensor:
    p, order = log_p.exp().sort(-1)
    gap = (p - log_q.exp().gather(-1, order)).abs()
    tail = p.cumsum(-1) < alpha
    total = gap.sum(-1)
    head = gap.masked_fill(tail, 0.0).sum(-1)
    return torch.where(total > 0, head / total.clamp(min=1e-30), 0.5)
