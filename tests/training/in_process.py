"""train.py's components put together in this process, so that a test can look between them."""

from __future__ import annotations

from itertools import islice

import torch

from tokenkit.batch import Batch
from tokenkit.config import Config
from tokenkit.data import build_train_loader
from tokenkit.losses import LOSSES
from tokenkit.parallelisms import Parallel
from tokenkit.training.build import (
    boundary_masks,
    build_losses,
    build_student,
    build_teacher,
    load_tokenizers,
    open_student_source,
    open_teacher_source,
)
from tokenkit.training.optimizer import (
    build_optimizer,
    scheduled_learning_rate,
    set_learning_rate,
    trainable_parameters,
)
from tokenkit.training.step import TrainStep


class Training:
    """tokenkit's components put together as in train.py.

    Attributes:
        parameters: what is trained, by name.
        gradients: of the last step, as the optimizer saw them (clipped).
    """

    def __init__(self, config: Config, parallel: Parallel) -> None:
        self.config = config
        factories = [LOSSES.get(name) for name in config.loss.names]
        tokenizers = load_tokenizers(config, any(f.needs_teacher for f in factories))
        source = open_student_source(config, tokenizers)
        teacher_source = open_teacher_source(config, tokenizers)
        losses = build_losses(config, factories, tokenizers, source, teacher_source)
        self.student = build_student(config, source, tokenizers, parallel, losses)
        teacher = build_teacher(
            config, teacher_source or source, self.student, tokenizers, parallel
        )
        masks = boundary_masks(config, self.student, teacher, tokenizers, losses, parallel.device)
        kinds = tuple(sorted({loss.chunk_kind for loss in losses if loss.chunk_kind}))
        self.batches = iter(
            build_train_loader(config, tokenizers.student, tokenizers.teacher, kinds, 0, 1)
        )
        self.optimizer = build_optimizer(self.student, config.optimizer)
        self.optimizer.register_step_pre_hook(self._catch)
        self.parameters = trainable_parameters(self.student)
        self.step = TrainStep(
            config, self.student, teacher, losses, masks, self.optimizer, parallel
        )

    def _catch(self, *_) -> None:
        self.gradients = {name: p.grad.clone() for name, p in self.parameters.items()}

    def micro_batches(self) -> list[Batch]:
        training = self.config.training
        return list(islice(self.batches, training.batch_size // training.micro_batch_size))

    def __call__(self, batches: list[Batch], step: int) -> dict[str, torch.Tensor]:
        set_learning_rate(self.optimizer, scheduled_learning_rate(self.config, step))
        return self.step(batches, step, stop=False)[0]
