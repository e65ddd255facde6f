"""The hypernetwork's first lesson: source tokens that spell themselves stay as they are.

Mean squared distance of predicted from source embeddings, over source tokens drawn anew each
step (ZeTT, arXiv 2405.07883, appendix on training: the identity phase before distillation).
"""

from __future__ import annotations

import numpy as np
import torch

from tokenkit.batch import StepBatch
from tokenkit.config import Config
from tokenkit.models.causal_lm import CausalLM
from tokenkit.parallelisms import Parallel
from tokenkit.tokenizers.sampling.token_forms import own_forms
from tokenkit.training.update import update


class IdentityStep:
    """An optimizer step of the identity phase, called like a training step."""

    def __init__(
        self,
        config: Config,
        student: CausalLM,
        optimizer: torch.optim.Optimizer,
        parallel: Parallel,
    ) -> None:
        self.config, self.student, self.optimizer = config, student, optimizer
        self.device = parallel.device

    def __call__(self, batch: StepBatch, step: int) -> dict[str, torch.Tensor]:
        """Run step number ``step``, which reads no texts; metrics are equal on all ranks."""
        ids = self._draw(step)
        with torch.no_grad():
            wanted = self.student.source_embeddings(ids).float().unbind(1)
        vocabulary = self.student.vocabulary
        with self.student.opened(own_forms(ids, len(ids), vocabulary.source_rows)):
            pairs = zip(vocabulary.predicted, wanted, strict=True)
            loss = torch.stack([(a - b).square().sum(-1) for a, b in pairs]).mean()
            loss.backward()
        loss = loss.detach()
        metrics = {"same/loss": loss, "same/loss/identity": loss}
        max_norm = self.config.training.max_grad_norm
        return update(self.student, self.optimizer, max_norm, metrics)

    def _draw(self, step: int) -> torch.Tensor:
        valid = self.student.vocabulary.source_valid
        count = min(valid, self.config.hypernet.identity_tokens)
        generator = np.random.default_rng((self.config.job.seed, step))
        ids = generator.choice(valid, size=count, replace=False)
        return torch.from_numpy(np.sort(ids)).to(self.device)
