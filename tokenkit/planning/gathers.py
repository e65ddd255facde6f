"""When FSDP joins weights, and how many are joined at once: as ``parallelisms.fsdp`` has it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor

from tokenkit.config import Config
from tokenkit.losses import Loss
from tokenkit.models.causal_lm import CausalLM
from tokenkit.models.flops import StepKind
from tokenkit.planning.models import PlannedModels
from tokenkit.planning.placement import Placement


def numel(parameters: Iterable[Tensor]) -> int:
    return sum(p.numel() for p in parameters)


@dataclass(frozen=True)
class Units:
    """Numbers of a model's cut weights, unit by unit.

    Attributes:
        layers: of each decoder layer.
        ends: vocabulary, last norm, and losses' own.
    """

    layers: tuple[int, ...]
    ends: int

    @classmethod
    def of(cls, model: CausalLM, placement: Placement) -> Units:
        layers = tuple(numel(placement.cut(layer.parameters())) for layer in model.layers)
        return cls(layers, numel(placement.cut(model.parameters())) - sum(layers))

    def ahead(self, depth: int) -> int:
        """Of the layer that computes and ``depth`` that come next."""
        return (depth + 1) * max(self.layers)


def joined_weights(config: Config, models: PlannedModels, placement: Placement) -> tuple[int, int]:
    """Numbers of cut weights that are whole at once, at most: while the teacher reads, and while
    the student learns.

    Both ends of a model stay whole, a teacher's from its first pass to the end of the run. Between
    its forward and its backward pass, the student's last layer does, too, or all of them.
    """
    layout, depth = config.parallelism, config.parallelism.prefetch_layers
    student = Units.of(models.student, placement)
    layers = sum(student.layers)
    stays = placement.unsharded or not layout.reshard_after_forward
    learning = student.ends + (
        layers if stays else min(layers, student.layers[-1] + student.ahead(depth))
    )
    if models.beside is not None:
        beside = numel(placement.cut(models.beside.parameters()))
        return beside + learning, beside + learning
    if models.teacher_model is None:
        return 0, learning
    teacher = Units.of(models.teacher_model, placement)
    if not layout.reshard_after_forward:  # no backward pass lets go of them
        whole = teacher.ends + sum(teacher.layers)
        return whole, whole + learning
    return teacher.ends + min(sum(teacher.layers), teacher.ahead(depth)), teacher.ends + learning


class Gathers:
    """Counts what passes through a student make FSDP gather.

    Attributes:
        numbers: weights that were gathered, whole.
    """

    def __init__(self, units: Units, stays: bool) -> None:
        self.units, self.stays = units, stays
        self.numbers = 0
        self._whole: set[int] = set()
        self._ends_whole = False

    def _gather(self) -> None:
        self.numbers += sum(n for i, n in enumerate(self.units.layers) if i not in self._whole)
        self.numbers += 0 if self._ends_whole else self.units.ends
        self._whole, self._ends_whole = set(range(len(self.units.layers))), True

    def forward(self) -> None:
        self._gather()
        if not self.stays:
            self._whole = {len(self.units.layers) - 1}

    def backward(self, more: bool = False) -> None:
        """``more`` passes share what is gathered."""
        self._gather()
        if not more:
            self._whole, self._ends_whole = set(), False


def student_gathers(
    config: Config,
    models: PlannedModels,
    placement: Placement,
    kind: StepKind,
    micro_batches: int,
    readings: int,
) -> float:
    """Numbers of weights of the student that a step gathers, on average.

    Args:
        readings: passes of the student as its own teacher.
    """
    units = Units.of(models.student, placement)
    stays = placement.unsharded or not config.parallelism.reshard_after_forward

    def step(probes: bool) -> int:
        gathers = Gathers(units, stays)
        apart = readings + micro_batches * (_counts(models.losses) + probes)
        for _ in range(apart):
            gathers.forward()
        for number in range(micro_batches):
            gathers.forward()
            for _ in range(kind.losses if kind.mixes else 1):
                more = placement.unsharded and number + 1 < micro_batches
                gathers.backward(more)
        return gathers.numbers

    share = kind.measures if kind.probes else 0.0
    return (1 - share) * step(False) + share * step(True)


def _counts(losses: list[Loss]) -> bool:
    """Whether a forward pass only counts."""
    return any(loss.counts_student for loss in losses)


def teacher_gathers(
    config: Config, models: PlannedModels, placement: Placement, passes: int
) -> int:
    """Numbers of weights of a teacher's own model that a step gathers, its first one left out."""
    if models.teacher_model is None or not config.parallelism.reshard_after_forward:
        return 0
    return passes * sum(Units.of(models.teacher_model, placement).layers)
