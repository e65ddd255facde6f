"""The phases of a run: what each optimizer step does."""

from __future__ import annotations

import torch
from torch import Tensor

from tokenkit.batch import StepBatch
from tokenkit.config import Config
from tokenkit.losses import Loss
from tokenkit.models.causal_lm import CausalLM
from tokenkit.parallelisms import Parallel
from tokenkit.training.identity import IdentityStep
from tokenkit.training.step import TrainStep
from tokenkit.training.teacher import Teacher


class Phases:
    """First a hypernetwork's identity phase, where the config has one, then training."""

    def __init__(
        self,
        config: Config,
        student: CausalLM,
        teacher: Teacher | None,
        losses: list[Loss],
        optimizer: torch.optim.Optimizer,
        parallel: Parallel,
    ) -> None:
        self.identity_steps = config.hypernet.identity_steps
        self.identity = IdentityStep(config, student, optimizer, parallel)
        self.train = TrainStep(config, student, teacher, losses, optimizer, parallel)

    def __call__(self, batch: StepBatch, step: int) -> dict[str, Tensor]:
        """Run step number ``step``; returns metrics, see :class:`TrainStep`."""
        run = self.identity if step < self.identity_steps else self.train
        return run(batch, step)

    def tensors(self) -> dict[str, Tensor]:
        """State of their own that a checkpoint must hold."""
        return self.train.balance.tensors()
