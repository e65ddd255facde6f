"""Memory of one rank at the peak of a step, by what it is for."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from tokenkit.balance import sums_losses
from tokenkit.cards import GIB
from tokenkit.config import Config
from tokenkit.parallelisms import DTYPES
from tokenkit.planning.gathers import joined_weights, numel
from tokenkit.planning.layout import Layout
from tokenkit.planning.lone_rank import Workload
from tokenkit.planning.models import PlannedModels, Shapes, build_models
from tokenkit.planning.placement import Placement
from tokenkit.planning.rehearsal import Rehearsed, fsdp_units, rehearse

MASTER = 4  # bytes of a weight that is trained, and of each of its two moments
CONTEXT = 0.7 * GIB  # of CUDA and its libraries, a process
COMMUNICATION = 0.8 * GIB  # of NCCL, with several ranks
FRAGMENTS = 0.04  # share of the allocated that lies in pieces too small for anything


@dataclass(frozen=True)
class Memory:
    """Bytes of one rank.

    Attributes:
        student: weights, as they are held between steps.
        teacher: the same.
        gathered: weights that FSDP joins for use, in the compute dtype.
        optimizer: AdamW's moments.
        gradients: at the end of backward.
        activations: kept for the backward pass, and what the teacher said.
        working: temporaries at the peak: blocks of logits, gradients on activations, messages.
        framework: what a GPU holds beside tensors.
    """

    student: float
    teacher: float
    gathered: float
    optimizer: float
    gradients: float
    activations: float
    working: float
    framework: float

    @property
    def allocated(self) -> float:
        """All tensors: ``torch.cuda.max_memory_allocated``."""
        return sum(vars(self).values()) - self.framework

    @property
    def total(self) -> float:
        return self.allocated + self.framework

    def parts(self) -> dict[str, float]:
        return dict(vars(self))


@dataclass(frozen=True)
class Sizes:
    """Numbers of parameters.

    Attributes:
        total, trained: of the student, all ranks together.
        teacher: of its own model, or of the source vocabulary.
    """

    total: int
    trained: int
    teacher: int


def modules(models: PlannedModels) -> list[nn.Module]:
    """What holds the teacher's weights beside the student's."""
    return [m for m in (models.teacher_model, models.beside) if m is not None]


def count_sizes(models: PlannedModels) -> Sizes:
    """Of models that are built whole (one tensor-parallel rank)."""
    parameters = list(models.student.parameters())
    trained = numel(p for p in parameters if p.requires_grad)
    teacher = sum(numel(m.parameters()) for m in modules(models))
    return Sizes(numel(parameters), trained, teacher)


def rehearsed_step(
    config: Config, shapes: Shapes, layout: Layout, device: str
) -> tuple[Rehearsed, PlannedModels, Placement]:
    """The step of one rank of a layout, models of its shapes, and which rank holds what of them."""
    dtype = DTYPES[config.training.dtype]
    training = config.training
    config = layout.applied(config)
    models = build_models(config, shapes, dtype, layout)
    placement = Placement.of(config, models, layout, device)
    degrees = layout.student_degrees
    shards = 1 if placement.unsharded else degrees.shard
    work = Workload(
        layout.micro_batch_size,
        layout.micro_batches(config),
        training.max_student_length,
        training.max_teacher_length,
        shards if degrees.is_wrapped(config) else 0,
        "cpu" if device == "cpu" else "cuda",
        layout.joined(config),
        layout.context,
        layout.teacher_context,
        layout.rows_together,
    )
    used_up = build_models(config, shapes, dtype, layout)
    return rehearse(config, used_up, work), models, placement


def plan_memory(config: Config, shapes: Shapes, layout: Layout, device: str) -> Memory:
    """What a rank of this layout needs.

    Args:
        device: "cpu", a card of the table, or "cuda" for the one that is here.

    Raises:
        ConfigError: if the layout does not fit the model or the batch.
    """
    found, models, placement = rehearsed_step(config, shapes, layout, device)
    wrapped = layout.student_degrees.is_wrapped(config)
    shard, theirs = layout.student_degrees.shard, layout.teacher_degrees.shard
    size = DTYPES[config.training.dtype].itemsize
    parameters = list(models.student.parameters())
    trained = [p for p in parameters if p.requires_grad]
    frozen = [p for p in parameters if not p.requires_grad]
    student = placement.held(trained, shard, MASTER) + placement.held(frozen, shard, size)
    teacher = sum(placement.held(m.parameters(), theirs, size) for m in modules(models))
    share = numel(trained) * MASTER / shard
    gradients = numel(trained) * MASTER if placement.unsharded else share
    more = gradients * (_copies(config) - 1) if wrapped else 0.0
    peak = found.peak + more
    if device == "cpu" and not config.optimizer.fused and trained:
        # AdamW's unfused kernels make a moment's root and the denominator, while the denominator
        # of the parameter before still lives.
        largest, next_largest = sorted([0, *(p.numel() for p in trained)])[:-3:-1]
        kept = share * (_copies(config) if wrapped else 1)
        peak = max(peak, kept + MASTER * (2 * largest + next_largest) / shard)
    reading, learning = joined_weights(config, models, placement)
    if reading * size + found.teacher_peak > learning * size + peak:
        # Most is needed while the teacher reads: there are no gradients, and nothing is kept but
        # what it has said.
        gathered, peak, now = reading * size, float(found.teacher_peak), 0.0
        activations = min(float(found.signals), peak)
    else:
        gathered, activations = learning * size, min(found.activations, peak)
        now = min(gradients + more, peak - activations)
    allocated = student + teacher + gathered + 2 * share + peak
    framework = 0.0 if device == "cpu" else framework_bytes(allocated, layout.world_size)
    return Memory(
        student, teacher, gathered, 2 * share, now, activations, peak - activations - now,
        framework,
    )  # fmt: skip


def framework_bytes(allocated: float, ranks: int) -> float:
    """What a GPU holds beside tensors."""
    return CONTEXT + (COMMUNICATION if ranks > 1 else 0.0) + FRAGMENTS * allocated


def _copies(config: Config) -> int:
    """Gradients of all parameters that are held at once."""
    return 1 if sums_losses(config) else len(config.loss.names) + 1


def unit_sizes(models: PlannedModels) -> list[int]:
    """Trained weights of each unit that FSDP reduces at once."""
    return [numel(unit) for unit in fsdp_units(models)]


def itemsize(config: Config) -> int:
    """Bytes of a number that is computed with."""
    return torch.empty((), dtype=DTYPES[config.training.dtype]).element_size()
