"""How several losses become one: their weights."""

from __future__ import annotations

import torch
from torch import Tensor


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


def combine_weights(name: str, loss_weights: Tensor, norms: Tensor | None) -> Tensor:
    """Factor ``[L]`` of each loss in the total, for the aggregation called ``name``.

    "" is the mean of the weighted losses.
    """
    if name == "":
        return loss_weights / len(loss_weights)
    return approx_gradmag_weights(norms, loss_weights, name.endswith("preserve_mag"))
