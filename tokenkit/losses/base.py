"""What a loss is: it names what it needs, counts over all micro-batches, and is then called."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from torch import Tensor

if TYPE_CHECKING:
    from tokenkit.batch import Batch
    from tokenkit.models.vocabulary.table import Vocabulary

# What a loss may need of a forward pass; "label" and "boundary" alone can be cached on disk.
NEEDS = ("label", "boundary", "embeddings", "hidden", "hidden_states", "qkv")


@dataclass
class Signals:
    """What one side's forward pass gives the losses: the fields that some loss needs.

    Attributes:
        label_logprob: ``[B, T]`` fp32, position t holds the score of token t + 1; the last column
            means nothing.
        boundary_logprob: ``[B, T]`` fp32, log-prob that a boundary token follows position t.
        correct: ``[B, T]`` bool, position t holds token t + 1 likeliest (with the scores).
        embeddings: ``[B, T, D]`` input embeddings.
        hidden: ``[B, T, D]`` last hidden states.
        hidden_states: ``[B, T, D]`` each: embeddings, every layer's output, the last one normed.
        qkv: ``[B, T, Q + K + V]`` of each layer.
        vocabulary: turns ``hidden`` into logits.
    """

    label_logprob: Tensor | None = None
    boundary_logprob: Tensor | None = None
    correct: Tensor | None = None
    embeddings: Tensor | None = None
    hidden: Tensor | None = None
    hidden_states: tuple[Tensor, ...] = ()
    qkv: tuple[Tensor, ...] = ()
    vocabulary: Vocabulary | None = None


class Loss(Protocol):
    """One objective. ``LOSSES`` maps names to factories ``(config, student_tok, teacher_tok)``.

    A loss with parameters of its own (a projection, say) is a ``torch.nn.Module``; they are
    trained, sharded and checkpointed with the student's.
    """

    name: str
    needs: frozenset[str]  # some of NEEDS, of the student and (if needs_teacher) of the teacher
    needs_teacher: bool
    chunk_kind: str | None  # which alignment of the batch it reads

    def count(self, batch: Batch, teacher: Signals | None) -> Tensor:
        """This micro-batch's share of the denominator, 0-d fp32.

        A loss that needs more than one number of the whole batch returns a vector. One that must
        know the student for it has a method ``student_count(batch, student, teacher, count)``,
        which costs a forward pass; what it returns is added to the vector.
        """
        ...

    def __call__(
        self, batch: Batch, student: Signals, teacher: Signals | None, count: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """This micro-batch's share of the loss and of its metrics, both divided by ``count``.

        ``count`` is the global count, so that shares add up to the loss of the whole batch; a
        0-d count is at least 1.
        """
        ...
