"""What one forward pass of a model reads, and what one optimizer step is made of."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from tokenkit.tokenizers.sampling.token_forms import TokenForms


def mapped(value: Any, function: Callable[[Any], Any], kind: type = Tensor) -> Any:
    """A copy with the function applied to all tensors (all of ``kind``), however deep."""
    if isinstance(value, kind):
        return function(value)
    if isinstance(value, dict):
        return {key: mapped(item, function, kind) for key, item in value.items()}
    if isinstance(value, list):
        return [mapped(item, function, kind) for item in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        made: Any = type(value)
        return made(**mapped(fields, function, kind))
    return value


class _Movable:
    """Tensors that go to a device together."""

    def to(self, device: torch.device) -> Any:
        """A copy on ``device`` (without waiting, from pinned memory)."""
        return mapped(self, lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Any:
        """A copy in pinned memory; called by the data loader."""
        return mapped(self, lambda tensor: tensor.pin_memory())


@dataclass
class Sequences(_Movable):
    """One tokenizer's view of B rows, padded on the right; ``[B, T]`` unless said.

    Attributes:
        ids: int64.
        mask: bool, real tokens.
        loss_mask: bool, tokens whose prediction counts.
        scored: bool, tokens that something in their document comes before; the others (each
            document's first, and padding) have no probability.
        real_index: int64 ``[N]``, places of the real tokens in the flattened rows. Made on the
            CPU, so that no device is asked how many there are.
        chunks: kind of alignment → int32 chunk ids, −1 for none.
        positions: int64, from 0 in each document of a packed row; None: a row is a document.
        subwords: int64, the second id of each position (input-id expansion); None: it has one.
        pairs: on the student's side, by loss: what it pairs with the teacher's.
        known: what a teacher cache says, by its name in ``Outputs``: fp32.
    """

    ids: Tensor
    mask: Tensor
    loss_mask: Tensor
    scored: Tensor
    real_index: Tensor
    chunks: dict[str, Tensor] = field(default_factory=dict)
    positions: Tensor | None = None
    subwords: Tensor | None = None
    pairs: dict[str, Any] = field(default_factory=dict)
    known: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        ids: Tensor,
        mask: Tensor | None = None,
        loss_mask: Tensor | None = None,
        chunks: dict[str, Tensor] | None = None,
    ) -> Sequences:
        """Rows of one document each; all tokens are real, and all real ones count, by default."""
        mask = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask
        scored = mask & F.pad(mask[:, :-1], (1, 0))
        index = mask.flatten().nonzero().squeeze(1)
        counted = mask if loss_mask is None else loss_mask
        return cls(ids, mask, counted, scored, index, chunks or {})

    @property
    def counted(self) -> Tensor:
        """bool, tokens that have a probability and whose prediction counts."""
        return self.loss_mask & self.scored

    def active(self, kind: str) -> Tensor:
        """Chunk ids of tokens under the loss mask, int64, −1 elsewhere."""
        return torch.where(self.loss_mask, self.chunks[kind].long(), -1)


@dataclass
class Batch(_Movable):
    """B rows as the student and the teachers see them.

    Attributes:
        teachers: by name; empty if no loss needs one.
        stats: counts that may be added up over batches (tokens, aligned tokens, …).
        places: file and line of each row, for errors.
        keys: where each row stands in the data, see :func:`tokenkit.data.order.row_key`.
    """

    student: Sequences
    teachers: dict[str, Sequences] = field(default_factory=dict)
    stats: dict[str, int] = field(default_factory=dict)
    places: list[str] = field(default_factory=list)
    keys: list[int] = field(default_factory=list)

    @property
    def teacher(self) -> Sequences | None:
        """The only teacher's."""
        return next(iter(self.teachers.values()), None)


@dataclass
class StepBatch(_Movable):
    """One rank's part of an optimizer step.

    Attributes:
        vocabulary: the student's tokens, where they change from step to step.
    """

    micro_batches: list[Batch]
    vocabulary: TokenForms | None = None

    @property
    def stats(self) -> dict[str, int]:
        """Sums of the micro-batches' counts."""
        total: dict[str, int] = {}
        for batch in self.micro_batches:
            for name, count in batch.stats.items():
                total[name] = total.get(name, 0) + count
        return total


def previous(states: Tensor, fill: float = 0.0) -> Tensor:
    """At each place of ``[B, T, …]`` what stands one place before it."""
    return torch.cat([torch.full_like(states[:, :1], fill), states[:, :-1]], 1)


def following(states: Tensor, fill: float = 0.0) -> Tensor:
    """At each place of ``[B, T, …]`` what stands one place after it."""
    return torch.cat([states[:, 1:], torch.full_like(states[:, :1], fill)], 1)
