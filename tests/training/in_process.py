"""train.py's components put together in this process, so that a test can look between them."""

from __future__ import annotations

import torch

from tokenkit.batch import StepBatch
from tokenkit.config import Config
from tokenkit.data import build_train_loader
from tokenkit.losses import build_losses, need_teacher, pairings
from tokenkit.parallelisms import Parallel
from tokenkit.training.optimizer import (
    build_optimizer,
    scheduled_learning_rate,
    set_learning_rate,
    trainable_parameters,
)
from tokenkit.training.step import TrainStep
from tokenkit.training.student import build_student, open_student_source
from tokenkit.training.teacher import build_teacher, open_teacher_source
from tokenkit.training.tokenizers import load_tokenizers


class Training:
    """tokenkit's components put together as in train.py.

    Attributes:
        parameters: what is trained, by name.
        gradients: of the last step, as the optimizer saw them (clipped), if they are kept.
    """

    def __init__(self, config: Config, parallel: Parallel, keep_gradients: bool = True) -> None:
        self.config = config
        tokenizers = load_tokenizers(config, need_teacher(config))
        toks = tokenizers.student, tokenizers.teacher
        source = open_student_source(config, tokenizers)
        teacher_source = open_teacher_source(config, tokenizers) or source
        losses = build_losses(config, *toks, source.width, teacher_source.width)
        self.student = build_student(config, source, tokenizers, parallel, losses)
        teacher = build_teacher(config, teacher_source, self.student, tokenizers, parallel)
        kinds = tuple(sorted({loss.chunk_kind for loss in losses if loss.chunk_kind}))
        loader = build_train_loader(
            config, *toks, kinds, parallel.dp_rank, parallel.dp_size,
            expander=tokenizers.expander, pairings=pairings(losses),
            known=teacher.known if teacher is not None else None,
        )  # fmt: skip
        self.batches = iter(loader)
        self.optimizer = build_optimizer(self.student, config.optimizer, config.job.seed)
        if keep_gradients:
            self.optimizer.register_step_pre_hook(self._catch)
        self.parameters = trainable_parameters(self.student)
        self.step = TrainStep(config, self.student, teacher, losses, self.optimizer, parallel)

    def _catch(self, *_) -> None:
        self.gradients = {name: p.grad.clone() for name, p in self.parameters.items()}

    def batch(self) -> StepBatch:
        return next(self.batches)

    def __call__(self, batch: StepBatch, step: int) -> dict[str, torch.Tensor]:
        set_learning_rate(self.optimizer, scheduled_learning_rate(self.config, step))
        return self.step(batch, step)
