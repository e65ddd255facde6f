"""How long a step takes: operations by a card's peak, messages by its links. Estimates."""

from __future__ import annotations

from dataclasses import dataclass

from tokenkit.cards import Card
from tokenkit.config import Config
from tokenkit.models.causal_lm import CausalLM
from tokenkit.models.flops import ModelSize, StepFlops, StepKind, Tokens
from tokenkit.parallelisms import DTYPES
from tokenkit.planning.gathers import numel, student_gathers, teacher_gathers
from tokenkit.planning.layout import Layout
from tokenkit.planning.memory import MASTER, itemsize
from tokenkit.planning.models import PlannedModels
from tokenkit.planning.placement import Placement
from tokenkit.training.throughput import step_kind

# Share of a card's peak that hardware FLOPs come at, the rest of a step's kernels included
# (compiled, 1B on an H100: measured, benchmarks/results/step_nvidia_h100.json).
EFFICIENCY, COMPILED = 0.30, 0.45
LINKS = 0.7  # share of a link's bandwidth that collectives reach
MASTERS, MOMENTS = 3, 4  # numbers that AdamW reads and writes for each that is trained


@dataclass(frozen=True)
class Messages:
    """Bytes that a rank sends in a step.

    Attributes:
        gathers, teacher_gathers: weights, for forward and backward passes.
        reductions: gradients, among ranks that share a copy of the model.
        copies: gradients, among copies.
        tensor_parallel: activations of the student, within a layer.
        context_parallel: keys and values of the student, and its last hidden states.
        teacher_activations: of the teacher's passes, all that is sent.
        measured: gradients of the last layer, to balance losses by.
    """

    gathers: float
    teacher_gathers: float
    reductions: float
    copies: float
    tensor_parallel: float
    context_parallel: float
    teacher_activations: float
    measured: float


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
    """FLOPs of whole models."""
    student = models.student
    teacher = models.teacher
    kind = step_kind(config, models.losses, len(student.layers), layout.micro_batches(config))
    return StepFlops(ModelSize.of(student), None if teacher is None else teacher.size, kind)


def hardware_flops(config: Config, models: PlannedModels, layout: Layout) -> float:
    """FLOPs of a step that are done, all ranks together, with full rows.

    Ranks of a context, which share layers and scores, each make what whole distributions are
    needed for themselves; ranks that read a teacher's rows together each score all of their own,
    as do those that have the same rows.
    """
    flops = planned_flops(config, models, layout)
    student, teacher = full_rows(config)
    found = flops.hardware(student, teacher)
    kind, size = flops.kind, flops.student
    matmuls = kind.student_streams * (2 + size.trains_vocabulary)
    found += (layout.context - 1) * matmuls * size.forward(student).vocabulary
    scores = flops.teacher_model(teacher).vocabulary
    if layout.rows_together > 1:
        found += (layout.same_rows - 1) * scores
    elif layout.context > 1 and kind.teacher_streams and layout.teacher is None:
        found += (layout.context - 1) * scores
    return found


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
    """What sharded and split models send.

    Args:
        models: those of one rank of the layout.
    """
    size, own, theirs = itemsize(config), layout.student_degrees, layout.teacher_degrees
    student = models.student
    trained = numel(p for p in student.parameters() if p.requires_grad)
    micro_batches = layout.micro_batches(config)
    readings = 0 if models.teacher is None else -(-micro_batches // layout.joined(config))
    kind = step_kind(config, models.losses, len(student.layers), micro_batches)
    again = readings if models.beside is not None else 0
    gathers = student_gathers(config, models, placement, kind, micro_batches, again)
    once = micro_batches * (kind.losses if kind.mixes else 1)
    once = 1 if placement.unsharded else once
    copies = once * 2 * trained * MASTER / own.shard * (own.replicate - 1) / own.replicate
    return Messages(
        gathers * size * _others(own.shard),
        teacher_gathers(config, models, placement, readings) * size * _others(theirs.shard),
        once * trained * MASTER * _others(own.shard),
        copies,
        4 * _within_layers(config, student, layout.tp, layout.data_parallel * layout.context),
        _of_contexts(config, student, kind, layout, full_rows(config)[0]),
        _teacher_activations(config, models, layout),
        kind.measures * _measured(config, models, layout, micro_batches if kind.probes else 1),
    )


def _others(ranks: int) -> float:
    """Share of a tensor that a rank sends so that all have what all have parts of."""
    return (ranks - 1) / ranks


def _within_layers(config: Config, model: CausalLM, tp: int, groups: int, side: int = 0) -> float:
    """One all-reduce in each layer, of the tokens that one of so many tensor-parallel groups has.

    Args:
        side: 0: the student's tokens, 1: the teacher's.
    """
    shape, tokens = model.backbone.config, full_rows(config)[side].tokens / groups
    numbers = tokens * shape.hidden_size * len(model.layers)
    return numbers * itemsize(config) * 2 * _others(tp)


def _of_contexts(
    config: Config, model: CausalLM, kind: StepKind | None, layout: Layout, tokens: Tokens
) -> float:
    """Keys and values of each layer, gathered forward and reduced backward, and hidden states.

    Args:
        kind: None for passes without a backward one.
        tokens: of all ranks.
    """
    if layout.context == 1:
        return 0.0
    shape = model.backbone.config
    head = getattr(shape, "head_dim", None) or shape.hidden_size // shape.num_attention_heads
    layers, keys = len(model.layers), 2 * head * shape.num_key_value_heads
    if kind is None:
        passes, last = 1.0, 1.0
    else:
        probes, times = kind.measures * kind.probes, kind.losses if kind.mixes else 1
        # selective_ops keeps what matmuls give, not what is gathered of it.
        again = 1.0 if config.activation_checkpoint.mode == "selective_ops" else kind.recomputed
        passes = 1 + probes + times * (1 + again)
        passes += kind.measures * kind.losses / layers  # the last layer's, backward
        last = 1 + probes + times
    numbers = tokens.tokens / layout.data_parallel
    numbers *= passes * layers * keys + last * shape.hidden_size
    return numbers * itemsize(config) * _others(layout.context)


def _teacher_activations(config: Config, models: PlannedModels, layout: Layout) -> float:
    """Two all-reduces a layer, and keys and values or the embeddings of rows read together."""
    if models.teacher is None:
        return 0.0
    model, theirs = models.teacher_model or models.student, layout.teacher_degrees
    groups = theirs.replicate * theirs.shard
    found = 2 * _within_layers(config, model, theirs.tp, groups, 1)
    tokens = full_rows(config)[1]
    if layout.teacher is None:
        return found + _of_contexts(config, model, None, layout, tokens)
    embeddings = tokens.tokens / groups * model.backbone.config.hidden_size * itemsize(config)
    return found + embeddings * _others(layout.rows_together)


def _measured(config: Config, models: PlannedModels, layout: Layout, micro_batches: int) -> float:
    """The sum of each loss's gradient on the last layer, and the mean over a context's ranks."""
    trained = numel(p for p in models.student.layers[-1].parameters() if p.requires_grad)
    sums = 2 * _others(layout.data_parallel) + micro_batches * 2 * _others(layout.context)
    return len(models.losses) * trained * itemsize(config) * sums


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
    flops = hardware_flops(config, models, layout)
    share = efficiency or (COMPILED if config.compile.enable else EFFICIENCY)
    compute = flops / layout.world_size / (card.peak(config.training.dtype) * share)
    own, theirs = layout.student_degrees, layout.teacher_degrees
    hidden = (messages.gathers + messages.reductions) / _ring(card, own.shard * own.tp)
    hidden += messages.teacher_gathers / _ring(card, theirs.shard * theirs.tp)
    network = card.link if layout.world_size <= card.per_node else card.network
    exposed = messages.copies / (network * LINKS)
    exposed += messages.tensor_parallel / _ring(card, layout.tp)
    exposed += messages.context_parallel / _ring(card, layout.same_rows)
    exposed += messages.teacher_activations / _ring(card, max(theirs.tp, layout.same_rows))
    exposed += messages.measured / _ring(card, layout.world_size)
    trained = numel(p for p in models.student.parameters() if p.requires_grad)
    moment = DTYPES[config.optimizer.state_dtype].itemsize
    passed = trained * (MASTERS * MASTER + MOMENTS * moment) / (own.shard * own.tp)
    update = passed / card.bandwidth
    return StepTime(compute, hidden, exposed, update)


def _ring(card: Card, ranks: int) -> float:
    """Bytes a second of neighbouring ranks; all adapters of a node carry one ring each."""
    inside = ranks <= card.per_node
    return LINKS * (card.link if inside else min(card.link, card.per_node * card.network))
