"""Weights that are trained so that all losses learn at similar rates (arXiv 1711.02257).

The weights minimise the mean of | ‖g_i‖ w_i − mean(‖g‖ w) r_i^α |, where r_i is how much of its
first value a loss has kept, relative to the others, and g_i its gradient on the last layer.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from tokenkit.balance.base import BALANCES, Metrics, Passes
from tokenkit.balance.weighted import Weighted
from tokenkit.config import Config


@BALANCES.register("gradnorm")
class GradNorm(Weighted):
    """Trained weights; its whole state is tensors that are changed in place."""

    always = True  # the weights are trained on them

    def __init__(self, config: Config, losses: int, device: torch.device) -> None:
        super().__init__(config, losses, device)
        self.alpha = config.loss.gradnorm_alpha
        self.weights = torch.ones(losses, device=device, requires_grad=True)
        # Fused: its step counter is on the device, too, and can be put back there.
        self.optimizer = torch.optim.AdamW(
            [self.weights],
            lr=config.loss.gradnorm_lr,
            weight_decay=1e-4,
            fused=self.weights.device.type != "meta",
        )
        self.weights.grad = torch.zeros_like(self.weights)
        self.optimizer.step()  # makes the state; a zero gradient leaves only weight decay
        state = self.optimizer.state[self.weights]
        state["step"].zero_()
        self.state = {
            "weights": self.weights.detach().fill_(1.0),
            "first_losses": torch.zeros(losses, device=device),
            **state,
        }

    def tensors(self) -> dict[str, Tensor]:
        return {f"gradnorm.{name}": tensor for name, tensor in self.state.items()}

    def weigh(self, passes: Passes, norms: Tensor | None) -> Tensor:
        return passes.scale * self.weights.detach() / len(passes.scale)

    def learn(self, norms: Tensor, metrics: Metrics, passes: Passes) -> None:
        losses = torch.stack([metrics[f"loss/{name}"] for name in passes.names])
        dist.all_reduce(losses, group=passes.group)
        self.train(norms, losses)

    @torch.no_grad()
    def train(self, norms: Tensor, losses: Tensor) -> None:
        """Train the weights on this step's norms and loss values, ``[L]`` each."""
        first = self.state["first_losses"]
        first.copy_(torch.where(self.state["step"] == 0, losses, first))
        rate = losses / first.clamp(min=1e-30)
        rate = rate / rate.mean().clamp(min=1e-30)
        weighted = norms * self.weights
        target = weighted.mean() * rate.clamp(min=0.0) ** self.alpha
        self.weights.grad = norms * (weighted - target).sign() / len(norms)
        self.optimizer.step()
        self.weights.clamp_(min=1e-6)
        self.weights *= len(norms) / self.weights.sum()
