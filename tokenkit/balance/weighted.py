"""One factor for each loss, then one backward pass of the weighted sum."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from tokenkit.balance.base import BALANCES, Balance, Metrics, Passes
from tokenkit.config import Config
from tokenkit.losses.registry import LOSSES
from tokenkit.ops.gradients import global_norms, sum_over_ranks


class Weighted(Balance):
    """The gradient of Σ w_i L_i."""

    def weigh(self, passes: Passes, norms: Tensor | None) -> Tensor:
        """The factors w ``[L]``; ``norms`` ``[L]`` are of the losses' last-layer gradients."""
        raise NotImplementedError

    def learn(self, norms: Tensor, metrics: Metrics, passes: Passes) -> None:
        """Told the norms ``[L]`` and this rank's shares of the losses, after the backward pass."""

    measures = True  # whether the factors depend on the norms
    always = False  # whether the norms of every step are needed

    def __init__(self, config: Config, losses: int, device: torch.device) -> None:
        self.interval = 1 if self.always else config.loss.balance_interval
        self.norms = torch.ones(losses, device=device)  # as last measured

    def tensors(self) -> dict[str, Tensor]:
        return {"balance.norms": self.norms} if self.measures else {}

    def due(self, step: int) -> bool:
        """Whether norms are measured in ``step``: often at first, when they change fast."""
        return step % self.interval == 0 or step & (step - 1) == 0

    @classmethod
    def problems(cls, config: Config) -> Iterator[str]:
        if not cls.measures:
            return
        for name in config.loss.names:
            if name in LOSSES and not LOSSES.get(name).reaches_layers:
                yield (
                    f'it weighs losses by gradients in the last decoder layer, where loss "{name}" '
                    "has none; leave loss.aggregation empty or use gradmag"
                )
        if config.student.train == "none" and config.training.steps:
            yield (
                'it balances gradients in the last decoder layer, but student.train = "none" '
                'trains no layer; leave loss.aggregation empty, or set student.train to "lora"'
            )

    def __call__(self, passes: Passes) -> Metrics:
        metrics: Metrics = {}
        norms = weights = None
        if not self.measures:
            weights = self.weigh(passes, None)
        elif not self.due(passes.step):
            weights = self.weigh(passes, self.norms)
        elif len(passes) > 1:
            norms = _norms_by_probe(passes)
            weights = self.weigh(passes, norms)
        for number in range(len(passes)):
            graph, values = passes.run(number, metrics, keep=weights is None)
            if weights is None:
                norms = _norms(passes.last_layer_gradients(graph, values), passes)
                weights = self.weigh(passes, norms)
            total = torch.dot(weights, torch.stack(values))
            passes.backward(graph, total, more=number + 1 < len(passes))
            total = total.detach()
            metrics["loss"] = metrics["loss"] + total if "loss" in metrics else total
        if norms is not None:
            self.norms.copy_(torch.where(norms > 0, norms, self.norms))  # 0: nothing matched
            self.learn(norms, metrics, passes)
        for k, name in enumerate(passes.names):
            metrics[f"same/weight/{name}"] = weights[k]
            if norms is not None:
                metrics[f"same/grad_norm/{name}"] = norms[k]
        return metrics


def _norms(gradients: list[list[Tensor]], passes: Passes) -> Tensor:
    """Global norm ``[L]`` of each loss's last-layer gradient, summed over rows of all ranks."""
    sum_over_ranks([tensor for tensors in gradients for tensor in tensors], passes.group)
    return global_norms(gradients)


def _norms_by_probe(passes: Passes) -> Tensor:
    """Norms of gradients of the whole batch, which accumulation sees only in parts.

    One more forward pass, recorded from the last layer on: the price of weights that do not
    depend on how a batch is cut into micro-batches.
    """
    total: list[list[Tensor]] = []
    for number in range(len(passes)):
        parts = passes.last_layer_gradients(*passes.probe(number))
        if not total:
            total = parts
            continue
        total = [
            [a + b for a, b in zip(old, new, strict=True)]
            for old, new in zip(total, parts, strict=True)
        ]
    return _norms(total, passes)


@BALANCES.register("")
class Mean(Weighted):
    """The mean of the weighted losses."""

    measures = False

    def weigh(self, passes: Passes, norms: Tensor | None) -> Tensor:
        return passes.scale / len(passes.scale)
