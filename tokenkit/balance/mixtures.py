"""Mixtures of the losses' gradients: clipped, scaled or freed from conflicts, and then summed.

A mixture is linear in the losses' gradients, and its factors follow from their inner products, so
it is computed from L × L matrices, one for each parameter, however the parameters are sharded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from tokenkit.balance.base import Balance, Metrics, Passes
from tokenkit.balance.names import parse_mixtures
from tokenkit.config import Config
from tokenkit.ops.gradients import gram_matrices


def mixture(stages: Sequence[tuple[str, float]], gram: Tensor, loss_weights: Tensor) -> Tensor:
    """Factors ``[P, L, L]`` with which each loss's new gradient is made of the old ones.

    The step is the sum of the new gradients, as in the reference.

    Args:
        stages: from :func:`parse_mixtures`, applied in this order.
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


class Mixture(Balance):
    """The sum of the losses' mixed gradients, one backward pass a loss and micro-batch."""

    def __init__(self, config: Config, losses: int, device: torch.device) -> None:
        self.stages = parse_mixtures(config.loss.aggregation)
        self.device = device

    @classmethod
    def problems(cls, config: Config) -> Iterator[str]:
        if config.hypernet.architecture:
            yield (
                "it mixes gradients of all parameters, but a hypernetwork gets its gradient once, "
                "for all losses: leave it empty or use one of the approx_gradmag kinds or "
                '"gradnorm"'
            )

    def __call__(self, passes: Passes) -> Metrics:
        parameters, losses = passes.parameters, len(passes.names)
        gradients: list[list[Tensor | None]] = [[None] * len(parameters) for _ in range(losses)]
        metrics: Metrics = {}
        for number in range(len(passes)):
            graph, values = passes.run(number, metrics)
            for k, value in enumerate(values):
                passes.backward(graph, value, retain=k + 1 < losses)
                for place, parameter in enumerate(parameters):
                    found, parameter.grad = parameter.grad, None
                    if found is not None:
                        old = gradients[k][place]
                        gradients[k][place] = found if old is None else old + found
        gram = gram_matrices(gradients, self.device)
        combined = mixture(self.stages, gram, passes.scale).sum(1)
        for place, parameter in enumerate(parameters):
            parts = [
                combined[place, k] * gradients[k][place]
                for k in range(losses)
                if gradients[k][place] is not None
            ]
            parameter.grad = sum(parts[1:], parts[0]) if parts else None
        norms = gram.diagonal(dim1=-2, dim2=-1).sum(0).clamp(min=0.0).sqrt()
        shares = torch.stack([metrics[f"loss/{name}"] for name in passes.names])
        metrics["loss"] = torch.dot(passes.scale, shares)
        for k, name in enumerate(passes.names):
            metrics[f"same/grad_norm/{name}"] = norms[k]
        return metrics
