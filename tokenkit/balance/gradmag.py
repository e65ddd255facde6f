"""Losses weighed so that their last-layer gradients are of one size (arXiv 2503.20083, §3.5)."""

from __future__ import annotations

import torch
from torch import Tensor

from tokenkit.balance.base import BALANCES, Passes
from tokenkit.balance.weighted import Weighted


def approx_gradmag_weights(norms: Tensor, loss_weights: Tensor, preserve_mag: bool) -> Tensor:
    """Weights that give every loss a last-layer gradient of the same norm.

    Args:
        norms: ``[L]`` norm of each loss's gradient on the last layer.
        loss_weights: ``[L]`` λ; a loss then counts λ times as much as one with λ = 1.
        preserve_mag: divide by Σ 1 / norm, so that the weights of equal losses sum to 1.

    A loss whose gradient vanishes gets weight 0 rather than infinity.
    """
    inverse = torch.where(norms > 0, 1.0 / norms.clamp(min=1e-30), 0.0)
    if preserve_mag:
        inverse = inverse / inverse.sum().clamp(min=1e-30)
    return loss_weights * inverse


@BALANCES.register("approx_gradmag")
class ApproxGradmag(Weighted):
    """A gradient of norm λ from each loss."""

    preserve_mag = False

    def weigh(self, passes: Passes, norms: Tensor | None) -> Tensor:
        return approx_gradmag_weights(norms, passes.scale, self.preserve_mag)


@BALANCES.register("approx_gradmag_preserve_mag")
class ApproxGradmagPreserveMag(ApproxGradmag):
    """The same, with weights that sum to 1."""

    preserve_mag = True
