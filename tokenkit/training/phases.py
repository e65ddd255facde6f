"""The phases of a run: what each optimizer step does."""

from __future__ import annotations

from torch import Tensor

from tokenkit.batch import StepBatch
from tokenkit.config import Config
from tokenkit.training.identity import IdentityStep
from tokenkit.training.skipped import SkippedSteps
from tokenkit.training.step import TrainStep


class Phases:
    """First a hypernetwork's identity phase, where the config has one, then training."""

    def __init__(self, config: Config, identity: IdentityStep, train: TrainStep) -> None:
        self.identity_steps = config.hypernet.identity_steps
        self.identity, self.train = identity, train
        self.skipped = SkippedSteps(config.training.max_skipped, train.device)

    def __call__(self, batch: StepBatch, step: int) -> dict[str, Tensor]:
        """Run step number ``step``; returns metrics, see :class:`TrainStep`.

        Raises:
            TrainingError: if too many steps in a row changed nothing.
        """
        run = self.identity if step < self.identity_steps else self.train
        return self.skipped(step, batch, run(batch, step))

    def finish(self) -> None:
        """After the last step.

        Raises:
            TrainingError: if not one step changed anything.
        """
        self.skipped.finish()

    def tensors(self) -> dict[str, Tensor]:
        """State of their own that a checkpoint must hold."""
        return self.train.balance.tensors()
