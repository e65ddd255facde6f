"""A balance of your own: what it does with the losses, its settings, its state in checkpoints.

    python train.py --job.config_file train_configs/debug.toml \
        --job.custom_import examples/my_balance.py --loss.aggregation dwa --dwa.temperature 1

Dynamic weight average (Liu et al., arXiv 1803.10704): a loss that fell less in the last step than
others counts more in the next one. It needs no gradient of single losses, so it costs nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from tokenkit.balance import BALANCES, Balance, Passes
from tokenkit.config import Config, add_section, key


@dataclass
class DwaSettings:
    """Dynamic weight average."""

    temperature: float = key(2.0, "the larger, the more equal the weights", above=0)


add_section("dwa", DwaSettings)


@BALANCES.register("dwa")
class DynamicWeightAverage(Balance):
    """The mean of the losses, each times L softmax(r / T); r is its last value by the one before.

    All factors are 1 until there are two values.
    """

    def __init__(self, config: Config, losses: int, device: torch.device) -> None:
        self.temperature = config.dwa.temperature
        self.history = torch.zeros(2, losses, device=device)  # of the last two steps, newest first

    def tensors(self) -> dict[str, Tensor]:
        """Equal on all ranks, and changed in place only: loading a checkpoint fills them."""
        return {"dwa.history": self.history}

    def factors(self) -> Tensor:
        """``[L]``, with a mean of 1."""
        newest, before = self.history
        rate = torch.where(before > 0, newest / before.clamp(min=1e-30), 1.0)
        return len(rate) * (rate / self.temperature).softmax(0)

    def __call__(self, passes: Passes) -> dict[str, Tensor]:
        factors = self.factors()
        weights = passes.scale * factors / len(factors)
        metrics: dict[str, Tensor] = {}
        shares = []
        for number in range(len(passes)):
            graph, values = passes.run(number, metrics)
            total = torch.dot(weights, torch.stack(values))
            passes.backward(graph, total)
            shares.append(total.detach())
        # What is known so far are this rank's shares of the losses.
        losses = torch.stack([metrics[f"loss/{name}"] for name in passes.names])
        dist.all_reduce(losses, group=passes.group)
        self.history.copy_(torch.stack([losses, self.history[0]]))
        metrics["loss"] = torch.stack(shares).sum()
        for name, factor in zip(passes.names, factors, strict=True):
            metrics[f"same/dwa/{name}"] = factor
        return metrics
