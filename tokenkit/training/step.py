"""One optimizer step: teacher scores → global counts → student forward and backward → update.

Counts come first. Every loss is divided by a count over all ranks and all accumulation steps,
so that neither changes the result.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor

from tokenkit.config import Config
from tokenkit.data import Batch
from tokenkit.losses.aggregation import combine_weights
from tokenkit.losses.base import Loss, SequenceScores
from tokenkit.losses.schedule import loss_weight
from tokenkit.models.causal_lm import CausalLM, Output
from tokenkit.parallelisms import Parallel
from tokenkit.training.gradients import clip_gradients, global_norm
from tokenkit.training.teacher import TeacherSource


@contextmanager
def gradients_from(layer: torch.nn.Module) -> Iterator[None]:
    """A forward pass inside records gradients from ``layer`` on only: cheap in time and memory."""

    def start_recording(*_: object) -> None:
        torch.set_grad_enabled(True)

    hook = layer.register_forward_pre_hook(start_recording)
    try:
        with torch.no_grad():
            yield
    finally:
        hook.remove()


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
        self.by_gradient = self.aggregation.startswith("approx_gradmag")

    def __call__(self, batches: list[Batch], step: int, stop: bool) -> tuple[dict, bool]:
        """Run step number ``step`` on its micro-batches.

        Returns:
            Metrics, 0-d tensors that are this rank's share of a sum over ranks (except those
            whose name begins with ``same/``, equal on all ranks), and whether any rank wants
            to stop.
        """
        stop = self._any_rank(stop)
        teacher = [self._teacher_scores(batch) for batch in batches]
        counts = self._global_counts(batches, teacher)
        scale = self._scheduled_weights(step)
        metrics: dict[str, Tensor] = {}
        weights = None
        if self.by_gradient and len(batches) > 1:
            weights = self._weights_by_probe(batches, teacher, counts, scale)
        for batch, teacher_scores in zip(batches, teacher, strict=True):
            output = self._forward(batch, keep=self.by_gradient and weights is None)
            values, gradients = self._losses(batch, output, teacher_scores, counts, metrics)
            if weights is None:
                norms = None
                if self.by_gradient:
                    norms = self._norms([self._last_layer_gradients(output, gradients)])
                weights = combine_weights(self.aggregation, scale, norms)
            self._backward(output, gradients, weights)
            self._add(metrics, "loss", torch.dot(weights, values))
        norm = clip_gradients(
            (p for p in self.student.parameters() if p.requires_grad),
            self.config.training.max_grad_norm,
        )
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        metrics["same/grad_norm"] = norm
        for loss, weight in zip(self.losses, weights, strict=True):
            metrics[f"same/weight/{loss.name}"] = weight
        return metrics, stop

    def _teacher_scores(self, batch: Batch) -> SequenceScores | None:
        if self.teacher is None:
            return None
        return self.teacher.scores(batch, self.teacher_boundary)

    @staticmethod
    def _any_rank(stop: bool) -> bool:
        """Whether any rank was told to stop. On the CPU, so that no GPU is waited for."""
        flag = torch.tensor([int(stop)])
        dist.all_reduce(flag)
        return bool(flag.item())

    def _global_counts(
        self, batches: list[Batch], teacher: list[SequenceScores | None]
    ) -> list[Tensor]:
        """Denominator of each loss over all ranks and micro-batches."""
        total = torch.zeros(len(self.losses), device=self.device)
        for batch, scores in zip(batches, teacher, strict=True):
            total += torch.stack([loss.count(batch, scores) for loss in self.losses])
        dist.all_reduce(total, group=self.dp_group)
        return list(total.clamp(min=1.0))

    def _scheduled_weights(self, step: int) -> Tensor:
        names, loss = self.config.loss.names, self.config.loss
        weights = loss.weights or [1.0] * len(names)
        schedules = loss.schedules or ["constant"] * len(names)
        values = [
            weight * loss_weight(kind, step, self.config.training.steps)
            for weight, kind in zip(weights, schedules, strict=True)
        ]
        return torch.tensor(values, device=self.device)

    def _forward(self, batch: Batch, keep: bool) -> Output:
        return self.student(
            batch.student_ids, batch.student_mask, self.student_boundary, keep_directions=keep
        )

    def _losses(
        self,
        batch: Batch,
        output: Output,
        teacher: SequenceScores | None,
        counts: list[Tensor],
        metrics: dict[str, Tensor] | None,
    ) -> tuple[Tensor, list[tuple[Tensor, Tensor | None]]]:
        """Loss values ``[L]`` and each loss's gradients on the label and boundary scores."""
        label = output.scores.label_logprob.detach().requires_grad_()
        boundary = output.scores.boundary_logprob
        inputs = [label]
        if boundary is not None:
            boundary = boundary.detach().requires_grad_()
            inputs.append(boundary)
        scores = SequenceScores(label, boundary)
        values, gradients = [], []
        for loss, count in zip(self.losses, counts, strict=True):
            value, extra = loss(batch, scores, teacher, count)
            found = torch.autograd.grad(value, inputs, allow_unused=True)
            gradients.append(tuple(torch.zeros_like(label) if g is None else g for g in found))
            values.append(value.detach())
            if metrics is not None:
                for name, metric in {f"loss/{loss.name}": values[-1], **extra}.items():
                    self._add(metrics, name, metric)
        return torch.stack(values), gradients

    @staticmethod
    def _add(metrics: dict[str, Tensor], name: str, value: Tensor) -> None:
        metrics[name] = metrics[name] + value if name in metrics else value

    def _backward(self, output: Output, gradients: list[tuple], weights: Tensor) -> None:
        """Backward of the weighted sum. FSDP averages over ranks; the losses are to be summed."""
        weights = weights * dist.get_world_size(self.dp_group)
        tensors = [output.scores.label_logprob, output.scores.boundary_logprob]
        tensors = [tensor for tensor in tensors if tensor is not None]
        combined = [
            sum(weight * gradient[k] for weight, gradient in zip(weights, gradients, strict=True))
            for k in range(len(tensors))
        ]
        torch.autograd.backward(tensors, combined)

    def _last_layer_gradients(self, output: Output, gradients: list[tuple]) -> list[list[Tensor]]:
        """Each loss's gradients on the last layer's trainable parameters, this rank's rows only.

        From the scores to the hidden states they are linear combinations of kept directions,
        so only the last layer is run backward.
        """
        parameters = [p for p in self.student.layers[-1].parameters() if p.requires_grad]
        hidden_gradients = []
        for gradient in gradients:
            grad_boundary = gradient[1] if len(gradient) > 1 else None
            hidden_gradients.append(
                self.student.vocabulary.hidden_gradient(output.scores, gradient[0], grad_boundary)
            )
        return [
            list(
                torch.autograd.grad(
                    output.hidden, parameters, hidden.to(output.hidden.dtype), retain_graph=True
                )
            )
            for hidden in hidden_gradients
        ]

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

    def _weights_by_probe(
        self, batches: list[Batch], teacher: list, counts: list[Tensor], scale: Tensor
    ) -> Tensor:
        """Weights from gradients of the whole batch, which accumulation sees only in parts.

        One more forward pass, recorded from the last layer on: the price of weights that do not
        depend on how a batch is cut into micro-batches.
        """
        collected: list[list[list[Tensor]]] | None = None
        for batch, teacher_scores in zip(batches, teacher, strict=True):
            with gradients_from(self.student.layers[-1]):
                output = self._forward(batch, keep=True)
            _, gradients = self._losses(batch, output, teacher_scores, counts, None)
            parts = self._last_layer_gradients(output, gradients)
            if collected is None:
                collected = parts
            else:
                collected = [
                    [a + b for a, b in zip(old, new, strict=True)]
                    for old, new in zip(collected, parts, strict=True)
                ]
        assert collected is not None
        return combine_weights(self.aggregation, scale, self._norms([collected]))
