"""The hypernetwork's first lesson: source tokens that spell themselves stay as they are.

Mean squared distance of predicted from source embeddings, over source tokens drawn anew each
step (ZeTT, arXiv 2405.07883, appendix on training: the identity phase before distillation).
"""

from __future__ import annotations

import numpy as np
import torch

from tokenkit.config import Config
from tokenkit.models.causal_lm import CausalLM
from tokenkit.parallelisms import Parallel
from tokenkit.tokenizers.sampling.token_forms import own_forms
from tokenkit.training.gradients import clip_gradients
from tokenkit.training.step import any_rank


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

    def __call__(self, step: int, stop: bool) -> tuple[dict[str, torch.Tensor], bool]:
        """Run step number ``step``; metrics are equal on all ranks."""
        stop = any_rank(stop)
        ids = self._draw(step)
        with torch.no_grad():
            wanted = self.student.source_embeddings(ids).float().unbind(1)
        self.student.open_vocabulary(own_forms(ids, len(ids), self.student.vocabulary.source_rows))
        predicted = self.student.vocabulary.predicted
        distances = [(a - b).square().sum(-1) for a, b in zip(predicted, wanted, strict=True)]
        loss = torch.stack(distances).mean()
        loss.backward()
        self.student.close_vocabulary()
        norm = clip_gradients(
            (p for p in self.student.parameters() if p.requires_grad),
            self.config.training.max_grad_norm,
        )
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        loss = loss.detach()
        metrics = {"loss": loss, "loss/identity": loss, "grad_norm": norm}
        return {f"same/{name}": value for name, value in metrics.items()}, stop

    def _draw(self, step: int) -> torch.Tensor:
        valid = self.student.vocabulary.source_valid
        count = min(valid, self.config.hypernet.identity_tokens)
        generator = np.random.default_rng((self.config.job.seed, step))
        ids = generator.choice(valid, size=count, replace=False)
        return torch.from_numpy(np.sort(ids)).to(self.device)
