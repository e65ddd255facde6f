"""How many floating-point operations a step of distillation takes: by its model, and really.

*Model FLOPs* are what the mathematics asks for, however it is computed: 2 a weight and token for
a forward pass, 2 more for the gradient on what went in, 2 more where the weight is trained;
attention counts the pairs that a causal mask leaves. *Hardware FLOPs* are what this implementation
does: blocks of logits made again in backward, layers recomputed, gradients measured. Work that is
not a matmul (norms, softmax) is in neither.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import NamedTuple

from torch import nn

from tokenkit.models.causal_lm import CausalLM
from tokenkit.models.vocabulary.table import Vocabulary


class Flops(NamedTuple):
    """FLOPs by kind of work."""

    layers: float = 0.0
    attention: float = 0.0
    vocabulary: float = 0.0

    @property
    def total(self) -> float:
        return sum(self)

    def plus(self, other: Flops) -> Flops:
        return Flops(*(a + b for a, b in zip(self, other, strict=True)))


@dataclass(frozen=True)
class Tokens:
    """Real tokens in rows; the rows count as equally long."""

    tokens: float
    rows: float

    @property
    def length(self) -> float:
        return self.tokens / max(self.rows, 1.0)


@dataclass(frozen=True)
class ModelSize:
    """What of a model takes part in matmuls; numbers of weights of the whole model.

    Attributes:
        frozen, trained: of the decoder's layers.
        windows: how far each layer's attention sees; None: to the beginning.
        attention_width: heads times their size.
        vocabulary: rows times width of the output matrix.
        trains_vocabulary: the output matrix gets a gradient.
    """

    frozen: int
    trained: int
    windows: tuple[int | None, ...]
    attention_width: int
    vocabulary: int
    trains_vocabulary: bool

    @classmethod
    def of(cls, model: CausalLM, vocabulary: Vocabulary | None = None) -> ModelSize:
        """Size of a model, on whatever device and however sharded.

        Args:
            vocabulary: of the source, where the model teaches itself: its adapters are then off.
        """
        frozen = trained = 0
        for module in model.backbone.modules():
            if isinstance(module, nn.Embedding):  # a look-up
                continue
            for name, weight in module.named_parameters(recurse=False):
                if weight.ndim >= 2 and name == "weight":
                    trained += weight.numel() * weight.requires_grad
                    frozen += weight.numel() * (not weight.requires_grad)
        config = model.backbone.config
        heads = config.num_attention_heads
        head = getattr(config, "head_dim", None) or config.hidden_size // heads
        own = vocabulary or model.vocabulary
        matrix = own.input if own.output is None else own.output
        size = cls(
            frozen,
            trained,
            attention_windows(config),
            heads * head,
            matrix.numel(),
            matrix.requires_grad or not own.rows_are_parameters,
        )
        return size.without_adapters(adapter_weights(model)) if vocabulary else size

    def without_adapters(self, adapters: int) -> ModelSize:
        base = self.frozen + self.trained - adapters
        return replace(self, frozen=base, trained=0, trains_vocabulary=False)

    def attention(self, tokens: Tokens) -> float:
        """Forward FLOPs of causal attention: two products over the pairs that see each other."""
        length, pairs = tokens.length, 0.0
        for window in self.windows:
            seen = length if window is None else min(window, length)
            pairs += tokens.rows * seen * (length - seen / 2)
        return 4.0 * self.attention_width * pairs

    def forward(self, tokens: Tokens) -> Flops:
        """Model FLOPs of a forward pass that ends in scores of every token."""
        weights = 2.0 * (self.frozen + self.trained)
        vocabulary = 2.0 * self.vocabulary * tokens.tokens
        return Flops(weights * tokens.tokens, self.attention(tokens), vocabulary)

    def backward(self, tokens: Tokens) -> Flops:
        """Model FLOPs of the backward pass; gradients reach the input embeddings."""
        weights = 2.0 * self.frozen + 4.0 * self.trained
        vocabulary = (2.0 + 2.0 * self.trains_vocabulary) * self.vocabulary
        return Flops(
            weights * tokens.tokens, 2.0 * self.attention(tokens), vocabulary * tokens.tokens
        )


def adapter_weights(model: CausalLM) -> int:
    """Weights of LoRA adapters."""
    named = model.backbone.named_parameters()
    return sum(weight.numel() for name, weight in named if ".lora_" in name)


def attention_windows(config: object) -> tuple[int | None, ...]:
    """How far each layer of a Hugging Face config sees."""
    layers = config.num_hidden_layers  # type: ignore[attr-defined]
    window = getattr(config, "sliding_window", None)
    if not getattr(config, "use_sliding_window", True):
        window = None
    kinds = getattr(config, "layer_types", None) or ["full_attention"] * layers
    uniform = window is not None and getattr(config, "layer_types", None) is None
    return tuple(window if uniform or kind == "sliding_attention" else None for kind in kinds)


@dataclass(frozen=True)
class StepKind:
    """How the implementation does a step, as far as it changes the number of operations.

    Attributes:
        losses: number of losses.
        measures: share of steps in which each loss's gradients on the last layer are measured.
        probes: and that takes a forward pass of its own (several micro-batches).
        mixes: each loss has a backward pass of its own.
        boundary: scores of boundaries are wanted.
        recomputed: share of the layers' forward work that backward repeats, and of attention.
        student_streams, teacher_streams: losses that need whole distributions, each side.
    """

    losses: int = 1
    measures: float = 0.0
    probes: bool = False
    mixes: bool = False
    boundary: bool = True
    recomputed: float = 0.0
    recomputed_attention: float = 0.0
    student_streams: int = 0
    teacher_streams: int = 0


@dataclass(frozen=True)
class StepFlops:
    """FLOPs of optimizer steps of a student and, where there is one, its teacher."""

    student: ModelSize
    teacher: ModelSize | None
    kind: StepKind

    def teacher_model(self, teacher: Tokens) -> Flops:
        if self.teacher is None:
            return Flops()
        found = self.teacher.forward(teacher)
        return found._replace(vocabulary=found.vocabulary * max(1, self.kind.teacher_streams))

    def student_model(self, student: Tokens) -> Flops:
        return self.student.forward(student).plus(self.student.backward(student))

    def model(self, student: Tokens, teacher: Tokens) -> float:
        """Model FLOPs of both for these real tokens."""
        return self.student_model(student).total + self.teacher_model(teacher).total

    def hardware(self, student: Tokens, teacher: Tokens) -> float:
        """Hardware FLOPs of both, for tokens that are computed (padding included, if given)."""
        return self.student_hardware(student).total + self.teacher_model(teacher).total

    def student_hardware(self, tokens: Tokens) -> Flops:
        """What the student's passes really do."""
        kind, size = self.kind, self.student
        forward, backward = size.forward(tokens), size.backward(tokens)
        times = kind.losses if kind.mixes else 1
        probes = kind.measures * kind.probes
        layers = forward.layers * (1 + probes + times * kind.recomputed)
        layers += times * backward.layers
        attention = forward.attention * (1 + probes + times * kind.recomputed_attention)
        # Fused kernels make the products of queries and keys again: 5 matmuls where 4 are needed.
        attention += times * 1.25 * backward.attention
        if kind.measures:
            depth = len(size.windows)
            layers += kind.measures * kind.losses * backward.layers / depth
            attention += kind.measures * kind.losses * 1.25 * backward.attention / depth
        return Flops(layers, attention, self._vocabulary_matmuls(times) * forward.vocabulary)

    def _vocabulary_matmuls(self, times: int) -> float:
        """Products with the student's output matrix, each 2·V·D a token; see ``linear_scores``."""
        kind, trained = self.kind, self.student.trains_vocabulary
        keeping = 2 + kind.boundary  # logits, and what gives the hidden states' gradient
        recomputing = 2 + trained  # logits again, gradient on hidden states, on the matrix
        streams = kind.student_streams * (2 + trained)
        plain = 1.0 + times * recomputing
        measuring = plain + keeping if kind.probes else keeping + (2.0 if trained else 0.0)
        return plain + kind.measures * (measuring - plain) + streams


def recomputed_shares(mode: str, every_n: int, layers: int) -> tuple[float, float]:
    """Shares of layers' matmuls and of attention that ``activation_checkpoint`` does twice."""
    if mode not in ("full", "every_n"):  # selective_ops keeps the results of both
        return 0.0, 0.0
    wrapped = len(range(0, layers - 1, every_n if mode == "every_n" else 1))
    return wrapped / layers, wrapped / layers


def stream_counts(needs: Collection[Collection[str]]) -> int:
    """How many losses make logits of their own."""
    return sum("vocabulary" in need for need in needs)
