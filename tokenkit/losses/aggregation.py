"""How several losses become one step: as a weighted sum, or as a mixture of their gradients.

A mixture is linear in the losses' gradients, and its factors follow from their inner products, so
it is computed from L × L matrices, one for each parameter, however the parameters are sharded.
"""

from __future__ import annotations

from collections.abc import Sequence

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


class GradNorm:
    """Weights that are trained so that all losses learn at similar rates (arXiv 1711.02257).

    The weights minimise the mean of | ‖g_i‖ w_i − mean(‖g‖ w) r_i^α |, where r_i is how much of its
    first value a loss has kept, relative to the others, and g_i its gradient on the last layer.

    Attributes:
        tensors: the whole state, for checkpoints; changed in place.
    """

    def __init__(self, losses: int, lr: float, alpha: float, device: torch.device) -> None:
        self.weights = torch.ones(losses, device=device, requires_grad=True)
        self.optimizer = torch.optim.AdamW([self.weights], lr=lr, weight_decay=1e-4)
        self.alpha = alpha
        self.weights.grad = torch.zeros_like(self.weights)
        self.optimizer.step()  # makes the state; a zero gradient leaves only weight decay
        state = self.optimizer.state[self.weights]
        state["step"].zero_()
        self.tensors = {
            "weights": self.weights.detach().fill_(1.0),
            "first_losses": torch.zeros(losses, device=device),
            **state,
        }

    @torch.no_grad()
    def update(self, norms: Tensor, losses: Tensor) -> None:
        """Train the weights on this step's norms and loss values, ``[L]`` each."""
        first = self.tensors["first_losses"]
        if not self.tensors["step"]:
            first.copy_(losses)
        rate = losses / first.clamp(min=1e-30)
        rate = rate / rate.mean().clamp(min=1e-30)
        weighted = norms * self.weights
        target = weighted.mean() * rate.clamp(min=0.0) ** self.alpha
        self.weights.grad = norms * (weighted - target).sign() / len(norms)
        self.optimizer.step()
        self.weights.clamp_(min=1e-6)
        self.weights *= len(norms) / self.weights.sum()


def mixture(stages: Sequence[tuple[str, float]], gram: Tensor, loss_weights: Tensor) -> Tensor:
    """Factors ``[P, L, L]`` with which each loss's new gradient is made of the old ones.

    The step is the sum of the new gradients, as in the reference.

    Args:
        stages: from :func:`tokenkit.config.aggregation.parse_mixtures`, applied in this order.
        gram: ``[P, L, L]`` inner products of the losses' gradients on each of P parameters.
        loss_weights: ``[L]`` λ. The first stage is given weighted gradients, so that it is these
            which are clipped; gradmag makes a norm λ, since one of 1 would undo the weights.
    """
    factors = torch.diag(loss_weights).expand_as(gram)
    for name, limit in stages:
        now = factors @ gram @ factors.mT
        factors = _stage(name, limit, now, loss_weights) @ factors
    return factors


def _stage(name: str, limit: float, gram: Tensor, loss_weights: Tensor) -> Tensor:
    """One stage's factors; ``gram`` is that of the gradients it is given."""
    squares = gram.diagonal(dim1=-2, dim2=-1)
    if name == "pcgrad":
        # Each conflicting gradient's component is taken out (arXiv 2001.06782), in order and
        # parameter by parameter, with inner products of the unchanged gradients.
        conflict = gram.clamp(max=0.0) / squares[:, None, :].clamp(min=1e-30)
        eye = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
        return eye - conflict * (1.0 - eye)
    norms = squares.sum(0).clamp(min=0.0).sqrt()
    if name == "gradmag":
        return torch.diag(torch.where(norms > 0, loss_weights / norms.clamp(min=1e-30), 0.0))
    return torch.diag(limit / norms.clamp(min=limit))
