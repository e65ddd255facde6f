"""A step's micro-batches on their way through the student."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from tokenkit.batch import Batch
from tokenkit.losses import Loss
from tokenkit.models.causal_lm import CausalLM
from tokenkit.models.outputs import Outputs
from tokenkit.ops.gradients import local_part
from tokenkit.parallelisms.fsdp import accumulating, kept_gathered
from tokenkit.training.loss_graph import LossGraph, gradients_from


@dataclass(frozen=True)
class MicroBatch:
    """What is known of a micro-batch before the student runs.

    Attributes:
        teacher: what the teacher says of it; None without one.
        matches: of each loss.
    """

    batch: Batch
    teacher: Outputs | None
    matches: list[Any]


@dataclass
class StudentPasses:
    """The :class:`~tokenkit.balance.Passes` of a step.

    Attributes:
        step: number of the step, a hypernetwork's identity phase left out.
        counts: global denominator of each loss.
        needs: what the losses need of the student.
        context: ranks that have the same rows, each a part of every gradient.
    """

    step: int
    student: CausalLM
    losses: list[Loss]
    micro_batches: list[MicroBatch]
    counts: list[Tensor]
    scale: Tensor
    parameters: list[Tensor]
    group: dist.ProcessGroup
    needs: frozenset[str]
    context: dist.ProcessGroup | None = None

    @property
    def names(self) -> list[str]:
        return [loss.name for loss in self.losses]

    def __len__(self) -> int:
        return len(self.micro_batches)

    def run(
        self, number: int, metrics: dict[str, Tensor], keep: bool = False
    ) -> tuple[LossGraph, list[Tensor]]:
        micro = self.micro_batches[number]
        output = self.student(micro.batch.student, self.needs, keep_directions=keep)
        graph = LossGraph(self.student, output, self.needs)
        values = []
        for loss, match, count in zip(self.losses, micro.matches, self.counts, strict=True):
            value, extra = loss(match, graph.outputs, micro.teacher, count)
            values.append(value)
            for name, metric in {f"loss/{loss.name}": value.detach(), **extra}.items():
                metrics[name] = metrics[name] + metric if name in metrics else metric
        return graph, values

    def probe(self, number: int) -> tuple[LossGraph, list[Tensor]]:
        with gradients_from(self.student.layers[-1]):
            return self.run(number, {}, keep=True)

    def last_layer_gradients(self, graph: LossGraph, values: list[Tensor]) -> list[list[Tensor]]:
        with kept_gathered(self.student):
            found = [graph.last_layer_gradients(graph.gradients(value)) for value in values]
        return found if self.context is None else mean_over(found, self.context)

    def backward(
        self, graph: LossGraph, value: Tensor, retain: bool = False, more: bool = False
    ) -> None:
        with accumulating(self.student, more):
            # FSDP averages gradients over ranks; shares of losses are to be summed.
            graph.backward(value * dist.get_world_size(self.group), retain)


def mean_over(gradients: list[list[Tensor]], group: dist.ProcessGroup) -> list[list[Tensor]]:
    """The mean over ranks of each gradient, in one message; of a sharded one, of the parts here."""
    parts = [local_part(gradient) for row in gradients for gradient in row]
    joined = torch.cat([part.flatten() for part in parts])
    dist.all_reduce(joined, group=group)
    joined /= dist.get_world_size(group)
    for part, mean in zip(parts, joined.split([part.numel() for part in parts]), strict=True):
        part.copy_(mean.view_as(part))
    return gradients
