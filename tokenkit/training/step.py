"""One optimizer step: teacher scores → global counts → student forward and backward → update.

Counts come first. Every loss is divided by a count over all ranks and all accumulation steps,
so that neither changes the result.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from tokenkit.balance.schedule import loss_weight
from tokenkit.batch import Batch
from tokenkit.config import Config
from tokenkit.config.aggregation import parse_mixtures
from tokenkit.losses.aggregation import GradNorm, combine_weights, mixture
from tokenkit.losses.base import Loss, Signals
from tokenkit.models.causal_lm import CausalLM
from tokenkit.parallelisms import Parallel
from tokenkit.training.gradients import clip_gradients, global_norm, gram_matrices
from tokenkit.training.loss_graph import LossGraph, gradients_from, kept_gathered
from tokenkit.training.teacher import TeacherSource, select_signals


@dataclass(frozen=True)
class Work:
    """What is known of an optimizer step before the student runs."""

    micro_batches: list[tuple[Batch, Signals | None]]  # with the teacher's signals
    counts: list[Tensor]  # global denominator of each loss
    scale: Tensor  # [L] scheduled weights


def any_rank(stop: bool) -> bool:
    """Whether any rank was told to stop. On the CPU, so that no GPU is waited for."""
    flag = torch.tensor([int(stop)])
    dist.all_reduce(flag)
    return bool(flag.item())


class TrainStep:
    """The step as a callable; holds what does not change between steps.

    Args:
        boundary_masks: student's and teacher's boundary tokens, ``[V]`` bool each, or None.
    """

    def __init__(
        self,
        config: Config,
        student: CausalLM,
        teacher: TeacherSource | None,
        losses: list[Loss],
        boundary_masks: tuple[Tensor | None, Tensor | None],
        optimizer: torch.optim.Optimizer,
        parallel: Parallel,
    ) -> None:
        self.config = config
        self.student, self.teacher, self.losses = student, teacher, losses
        self.student_boundary, self.teacher_boundary = boundary_masks
        self.optimizer = optimizer
        self.dp_group = parallel.dp_group
        self.device = parallel.device
        self.aggregation = config.loss.aggregation
        self.stages = parse_mixtures(self.aggregation)
        self.needs = frozenset().union(*(loss.needs for loss in losses))
        self.teacher_needs = frozenset().union(
            *(loss.needs for loss in losses if loss.needs_teacher)
        )
        self.gradnorm = None
        if self.aggregation == "gradnorm":
            self.gradnorm = GradNorm(
                len(losses), config.loss.gradnorm_lr, config.loss.gradnorm_alpha, self.device
            )
        self.by_gradient = self.aggregation != "" and not self.stages

    def __call__(self, batches: list[Batch], step: int, stop: bool) -> tuple[dict, bool]:
        """Run step number ``step`` on its micro-batches.

        Returns:
            Metrics, 0-d tensors that are this rank's share of a sum over ranks (except those
            whose name begins with ``same/``, equal on all ranks), and whether any rank wants
            to stop.
        """
        stop = any_rank(stop)
        self.student.open_vocabulary(batches[0].tokens)
        micro_batches = [(batch, self._teacher_signals(batch)) for batch in batches]
        counts = self._global_counts(micro_batches)
        work = Work(micro_batches, counts, self._scheduled_weights(step))
        metrics = self._mixed(work) if self.stages else self._weighted(work)
        self.student.close_vocabulary()
        norm = clip_gradients(
            (p for p in self.student.parameters() if p.requires_grad),
            self.config.training.max_grad_norm,
        )
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        metrics["same/grad_norm"] = norm
        return metrics, stop

    def tensors(self) -> dict[str, Tensor]:
        """State of its own that a checkpoint must hold."""
        if self.gradnorm is None:
            return {}
        return {f"gradnorm.{name}": t for name, t in self.gradnorm.tensors.items()}

    # What is known before the student runs ----------------------------------------------------

    def _teacher_signals(self, batch: Batch) -> Signals | None:
        if self.teacher is None:
            return None
        return self.teacher.signals(batch, self.teacher_boundary, self.teacher_needs)

    def _global_counts(self, micro_batches: list[tuple[Batch, Signals | None]]) -> list[Tensor]:
        """What each loss counts, over all ranks and micro-batches."""
        counts = [
            [loss.count(batch, teacher) for loss in self.losses] for batch, teacher in micro_batches
        ]
        total = self._sum_counts(counts)
        if any(hasattr(loss, "student_count") for loss in self.losses):
            found = [self._student_counts(*pair, total) for pair in micro_batches]
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
    def _student_counts(
        self, batch: Batch, teacher: Signals | None, counts: list[Tensor]
    ) -> list[Tensor]:
        output = self.student(batch.student_ids, batch.student_mask, None, needs=self.needs)
        student = select_signals(output, self.student.vocabulary, self.needs)
        return [
            loss.student_count(batch, student, teacher, count)
            if hasattr(loss, "student_count")
            else torch.zeros_like(count)
            for loss, count in zip(self.losses, counts, strict=True)
        ]

    def _scheduled_weights(self, step: int) -> Tensor:
        names, loss = self.config.loss.names, self.config.loss
        weights = loss.weights or [1.0] * len(names)
        schedules = loss.schedules or ["constant"] * len(names)
        values = [
            weight * loss_weight(kind, step, self.config.training.steps)
            for weight, kind in zip(weights, schedules, strict=True)
        ]
        return torch.tensor(values, device=self.device)

    # The student ------------------------------------------------------------------------------

    def _losses(
        self,
        batch: Batch,
        teacher: Signals | None,
        work: Work,
        metrics: dict[str, Tensor],
        keep: bool = False,
    ) -> tuple[LossGraph, list[Tensor]]:
        """Forward pass and loss values of a micro-batch; ``keep`` the scores' directions."""
        output = self.student(
            batch.student_ids,
            batch.student_mask,
            self._student_boundary(batch),
            keep_directions=keep,
            needs=self.needs,
        )
        graph = LossGraph(self.student, output, self.needs)
        values = []
        for loss, count in zip(self.losses, work.counts, strict=True):
            value, extra = loss(batch, graph.signals, teacher, count)
            values.append(value)
            for name, metric in {f"loss/{loss.name}": value.detach(), **extra}.items():
                metrics[name] = metrics[name] + metric if name in metrics else metric
        return graph, values

    def _student_boundary(self, batch: Batch) -> Tensor | None:
        if self.student_boundary is None or batch.tokens is None:
            return self.student_boundary
        return batch.tokens.boundary

    @property
    def _ranks(self) -> int:
        """FSDP averages gradients over ranks; shares of losses are to be summed."""
        return dist.get_world_size(self.dp_group)

    def _weighted(self, work: Work) -> dict[str, Tensor]:
        """Gradients of a weighted sum of the losses, one backward pass a micro-batch."""
        metrics: dict[str, Tensor] = {}
        norms = weights = None
        if not self.by_gradient:
            weights = combine_weights(self.aggregation, work.scale, None)
        elif len(work.micro_batches) > 1:
            norms = self._norms_by_probe(work)
            weights = self._weights(work.scale, norms)
        for batch, teacher in work.micro_batches:
            graph, values = self._losses(batch, teacher, work, metrics, keep=weights is None)
            if weights is None:
                norms = self._norms([self._last_layer(graph, values)])
                weights = self._weights(work.scale, norms)
            total = torch.dot(weights, torch.stack(values))
            graph.backward(total * self._ranks)
            total = total.detach()
            metrics["loss"] = metrics["loss"] + total if "loss" in metrics else total
        if self.gradnorm is not None:
            values = torch.stack([metrics[f"loss/{loss.name}"] for loss in self.losses])
            dist.all_reduce(values, group=self.dp_group)
            self.gradnorm.update(norms, values)
        for k, loss in enumerate(self.losses):
            metrics[f"same/weight/{loss.name}"] = weights[k]
            if norms is not None:
                metrics[f"same/grad_norm/{loss.name}"] = norms[k]
        return metrics

    def _weights(self, scale: Tensor, norms: Tensor) -> Tensor:
        if self.gradnorm is not None:
            return scale * self.gradnorm.weights.detach() / len(scale)
        return combine_weights(self.aggregation, scale, norms)

    def _last_layer(self, graph: LossGraph, values: list[Tensor]) -> list[list[Tensor]]:
        with kept_gathered(self.student):
            return [graph.last_layer_gradients(graph.gradients(value)) for value in values]

    def _norms(self, micro_batches: list[list[list[Tensor]]]) -> Tensor:
        """Global norm ``[L]`` of each loss's last-layer gradient, summed over rows of all ranks."""
        norms = []
        for parts in zip(*micro_batches, strict=True):
            total = [sum(tensors) for tensors in zip(*parts, strict=True)]
            for tensor in total:
                local = tensor.to_local() if hasattr(tensor, "to_local") else tensor
                dist.all_reduce(local, group=self.dp_group)
            norms.append(global_norm(total))
        return torch.stack(norms)

    def _norms_by_probe(self, work: Work) -> Tensor:
        """Norms of gradients of the whole batch, which accumulation sees only in parts.

        One more forward pass, recorded from the last layer on: the price of weights that do not
        depend on how a batch is cut into micro-batches.
        """
        collected: list[list[Tensor]] | None = None
        for batch, teacher in work.micro_batches:
            with gradients_from(self.student.layers[-1]):
                graph, values = self._losses(batch, teacher, work, {}, keep=True)
            parts = self._last_layer(graph, values)
            if collected is None:
                collected = parts
            else:
                collected = [
                    [a + b for a, b in zip(old, new, strict=True)]
                    for old, new in zip(collected, parts, strict=True)
                ]
        assert collected is not None
        return self._norms([collected])

    def _mixed(self, work: Work) -> dict[str, Tensor]:
        """The sum of the losses' mixed gradients, one backward pass a loss and micro-batch."""
        # The optimizer's, which are sharded: the student's may be gathered at this moment.
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        gradients: list[list[Tensor | None]] = [[None] * len(parameters) for _ in self.losses]
        metrics: dict[str, Tensor] = {}
        for batch, teacher in work.micro_batches:
            graph, values = self._losses(batch, teacher, work, metrics)
            for k, value in enumerate(values):
                graph.backward(value * self._ranks, retain=k + 1 < len(values))
                for place, parameter in enumerate(parameters):
                    found, parameter.grad = parameter.grad, None
                    if found is not None:
                        old = gradients[k][place]
                        gradients[k][place] = found if old is None else old + found
        gram = gram_matrices(gradients, self.device)
        combined = mixture(self.stages, gram, work.scale).sum(1)
        for place, parameter in enumerate(parameters):
            parts = [
                combined[place, k] * gradients[k][place]
                for k in range(len(self.losses))
                if gradients[k][place] is not None
            ]
            parameter.grad = sum(parts[1:], parts[0]) if parts else None
        norms = gram.diagonal(dim1=-2, dim2=-1).sum(0).clamp(min=0.0).sqrt()
        shares = torch.stack([metrics[f"loss/{loss.name}"] for loss in self.losses])
        metrics["loss"] = torch.dot(work.scale, shares)
        for k, loss in enumerate(self.losses):
            metrics[f"same/grad_norm/{loss.name}"] = norms[k]
        return metrics
