"""How long a step takes: operations by a card's peak, messages by its links. Estimates."""

from __future__ import annotations

from dataclasses import dataclass

from tokenkit.cards import Card
from tokenkit.config import Config
from tokenkit.models.flops import ModelSize, StepFlops, Tokens
from tokenkit.planning.layout import Layout
from tokenkit.planning.memory import MASTER, itemsize, modules, numel
from tokenkit.planning.models import PlannedModels
from tokenkit.planning.placement import Placement
from tokenkit.training.throughput import step_kind

# Share of a card's peak that hardware FLOPs come at, the rest of a step's kernels included
# (compiled, 1B on an H100: measured, benchmarks/results/step_nvidia_h100.json).
EFFICIENCY, COMPILED = 0.30, 0.45
LINKS = 0.7  # share of a link's bandwidth that collectives reach
MOMENTS = 7  # fp32 numbers that AdamW reads and writes for each that is trained


@dataclass(frozen=True)
class Messages:
    """Bytes that a rank sends in a step.

    Attributes:
        gathers: weights, for forward and backward passes.
        reductions: gradients, among ranks that share a copy of the model.
        copies: gradients, among copies.
        tensor_parallel: activations, within a layer.
    """

    gathers: float
    reductions: float
    copies: float
    tensor_parallel: float


@dataclass(frozen=True)
class StepTime:
    """Seconds of a step.

    Attributes:
        compute: matmuls and what is between them.
        hidden: messages that run beside them.
        exposed: messages that are waited for.
        update: of the optimizer.
    """

    compute: float
    hidden: float
    exposed: float
    update: float

    @property
    def total(self) -> float:
        return max(self.compute, self.hidden) + self.exposed + self.update


def planned_flops(config: Config, models: PlannedModels, layout: Layout) -> StepFlops:
    """FLOPs of whole models (one tensor-parallel rank)."""
    student = models.student
    teacher = models.teacher
    kind = step_kind(config, models.losses, len(student.layers), layout.micro_batches(config))
    return StepFlops(ModelSize.of(student), None if teacher is None else teacher.size, kind)


def full_rows(config: Config) -> tuple[Tokens, Tokens]:
    """The student's and teacher's tokens of a step whose rows are as long as they may be."""
    training = config.training
    rows = training.batch_size
    return (
        Tokens(rows * training.max_student_length, rows),
        Tokens(rows * training.max_teacher_length, rows),
    )


def count_messages(
    config: Config, models: PlannedModels, layout: Layout, placement: Placement
) -> Messages:
    """What sharded and split models send; of models built whole.

    A micro-batch gathers the student for its forward pass, for each backward pass (one, or one a
    loss) and for a probe, the teacher once; where micro-batches share them, a step gathers the
    student once and reduces once.
    """
    size, shard, tp = itemsize(config), layout.shard, layout.tp
    student = models.student
    trained = numel(p for p in student.parameters() if p.requires_grad)
    micro_batches = layout.micro_batches(config)
    kind = step_kind(config, models.losses, len(student.layers), micro_batches)
    backwards = len(config.loss.names) if kind.mixes else 1
    passes = 1.0 + backwards + kind.measures * kind.probes
    passes = 1.0 if placement.unsharded else micro_batches * passes
    once = 1 if placement.unsharded else micro_batches * backwards
    teacher = sum(numel(placement.cut(m.parameters())) for m in modules(models))
    gathers = passes * numel(placement.cut(student.parameters())) + micro_batches * teacher
    if models.beside is not None and not placement.unsharded:  # the student's layers once more
        gathers += micro_batches * numel(placement.cut(student.backbone.parameters()))
    part = (shard - 1) / shard / tp
    copies = once * 2 * trained * MASTER / (shard * tp) * (layout.replicate - 1) / layout.replicate
    return Messages(
        gathers * size * part,
        once * trained * MASTER * part,
        copies,
        _activations(config, models, layout),
    )


def _activations(config: Config, models: PlannedModels, layout: Layout) -> float:
    """Two all-reduces a layer in each direction."""
    tp = layout.tp
    if tp == 1:
        return 0.0
    student, teacher = (tokens.tokens / layout.data_parallel for tokens in full_rows(config))
    width, layers = models.student.backbone.config.hidden_size, len(models.student.layers)
    numbers = 4 * student * width * layers
    if models.teacher is not None:
        theirs = (models.teacher_model or models.student).backbone.config
        numbers += 2 * teacher * theirs.hidden_size * theirs.num_hidden_layers
    return numbers * itemsize(config) * 2 * (tp - 1) / tp


def predict_step(
    config: Config,
    models: PlannedModels,
    layout: Layout,
    messages: Messages,
    card: Card,
    efficiency: float | None,
) -> StepTime:
    """Seconds of a step with full rows.

    Args:
        models: built whole.
        efficiency: share of the peak, if it was measured.
    """
    flops = planned_flops(config, models, layout).hardware(*full_rows(config))
    share = efficiency or (COMPILED if config.compile.enable else EFFICIENCY)
    compute = flops / layout.world_size / (card.peak(config.training.dtype) * share)
    inside = layout.shard * layout.tp <= card.per_node
    # All adapters of a node carry one ring each.
    ring = card.link if inside else min(card.link, card.per_node * card.network)
    network = card.link if layout.world_size <= card.per_node else card.network
    hidden = (messages.gathers + messages.reductions) / (ring * LINKS)
    exposed = messages.tensor_parallel / (card.link * LINKS) + messages.copies / (network * LINKS)
    trained = numel(p for p in models.student.parameters() if p.requires_grad)
    update = trained * MASTER * MOMENTS / (layout.shard * layout.tp) / card.bandwidth
    return StepTime(compute, hidden, exposed, update)
