"""One optimizer step: teacher → global counts → student forward and backward → update.

Counts come first. Every loss is divided by a count over all ranks and all accumulation steps,
so that neither changes the result.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from tokenkit.balance import build_balance
from tokenkit.balance.schedule import loss_weight
from tokenkit.batch import Batch, StepBatch
from tokenkit.config import Config
from tokenkit.losses import Loss
from tokenkit.models.causal_lm import CausalLM
from tokenkit.models.outputs import Outputs
from tokenkit.parallelisms import Parallel
from tokenkit.training.joined_reads import read_joined
from tokenkit.training.passes import MicroBatch, StudentPasses
from tokenkit.training.teacher import Teacher
from tokenkit.training.update import SKIPPED, put_back, update


class TrainStep:
    """The step as a callable; holds what does not change between steps."""

    def __init__(
        self,
        config: Config,
        student: CausalLM,
        teacher: Teacher | None,
        losses: list[Loss],
        optimizer: torch.optim.Optimizer,
        parallel: Parallel,
    ) -> None:
        self.config = config
        self.student, self.teacher, self.losses = student, teacher, losses
        self.optimizer = optimizer
        self.dp_group, self.context = parallel.dp_group, parallel.context
        self.device = parallel.device
        self.balance = build_balance(config, parallel.device)
        self.needs = frozenset().union(*(loss.needs for loss in losses))
        self.teacher_needs = frozenset().union(
            *(loss.needs for loss in losses if loss.needs_teacher)
        )

    def __call__(self, batch: StepBatch, step: int) -> dict[str, Tensor]:
        """Run step number ``step``.

        Returns:
            Metrics, 0-d tensors that are this rank's share of a sum over ranks (except those
            whose name begins with ``same/``, equal on all ranks).
        """
        state = self.balance.tensors()
        before = {name: tensor.detach().clone() for name, tensor in state.items()}
        with self.student.opened(batch.vocabulary):
            metrics = self.balance(self._prepare(batch, step))
        max_norm = self.config.training.max_grad_norm
        metrics = update(self.student, self.optimizer, max_norm, metrics)
        put_back(state, before, metrics[SKIPPED])
        return metrics

    def _prepare(self, batch: StepBatch, step: int) -> StudentPasses:
        micro_batches = self._read(batch.micro_batches)
        return StudentPasses(
            max(0, step - self.config.hypernet.identity_steps),
            self.student,
            self.losses,
            micro_batches,
            self._global_counts(micro_batches),
            self._scheduled_weights(step),
            [p for group in self.optimizer.param_groups for p in group["params"]],
            self.dp_group,
            self.needs,
            self.context,
        )

    def _read(self, batches: list[Batch]) -> list[MicroBatch]:
        """What can be known of micro-batches without the student."""
        said: list[Outputs | None] = [None] * len(batches)
        if self.teacher is not None:
            sides = [batch.teacher for batch in batches if batch.teacher is not None]
            at_once = self.config.teacher.micro_batch_size // self.config.training.micro_batch_size
            at_once = 1 if self.teacher.known is not None else at_once  # nothing is read at all
            said = list(read_joined(self.teacher, sides, self.teacher_needs, at_once))
        return [
            MicroBatch(batch, teacher, [loss.match(batch.student, teacher) for loss in self.losses])
            for batch, teacher in zip(batches, said, strict=True)
        ]

    def _global_counts(self, micro_batches: list[MicroBatch]) -> list[Tensor]:
        """What each loss counts, over all ranks and micro-batches."""
        total = self._sum_counts(
            [
                [loss.count(match) for loss, match in zip(self.losses, micro.matches, strict=True)]
                for micro in micro_batches
            ]
        )
        if any(loss.counts_student for loss in self.losses):
            found = [self._student_counts(micro, total) for micro in micro_batches]
            total = [a + b for a, b in zip(total, self._sum_counts(found), strict=True)]
        return [count.clamp(min=1.0) if count.ndim == 0 else count for count in total]

    def _sum_counts(self, counts: list[list[Tensor]]) -> list[Tensor]:
        """Sum over micro-batches and ranks, in one message."""
        sums = [sum(column[1:], column[0]) for column in zip(*counts, strict=True)]
        joined = torch.cat([count.flatten() for count in sums])
        dist.all_reduce(joined, group=self.dp_group)
        parts = joined.split([count.numel() for count in sums])
        return [part.view_as(count) for part, count in zip(parts, sums, strict=True)]

    @torch.no_grad()
    def _student_counts(self, micro: MicroBatch, counts: list[Tensor]) -> list[Tensor]:
        student = self.student(micro.batch.student, self.needs - {"boundary"})
        return [
            loss.student_count(match, student, micro.teacher, count)
            if loss.counts_student
            else torch.zeros_like(count)
            for loss, match, count in zip(self.losses, micro.matches, counts, strict=True)
        ]

    def _scheduled_weights(self, step: int) -> Tensor:
        names, loss = self.config.loss.names, self.config.loss
        weights = loss.weights or [1.0] * len(names)
        schedules = loss.schedules or ["constant"] * len(names)
        values = [
            weight * loss_weight(kind, step, self.config.training.steps)
            for weight, kind in zip(weights, schedules, strict=True)
        ]
        # Written by the device itself: it is not waited for, as it is in a copy.
        return torch.stack([torch.full((), value, device=self.device) for value in values])
