"""A loss of your own: full logits, settings in the TOML, a metric; this file is all it takes.

    python train.py --job.config_file train_configs/debug.toml \
        --job.custom_import examples/my_loss.py --loss.names sft,focal --focal.gamma 1.5

Focal loss (Lin et al., arXiv 1708.02002): tokens that the student predicts well count less.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tokenkit.batch import Sequences
from tokenkit.config import Config, key
from tokenkit.losses import LOSSES, Loss
from tokenkit.losses.pairs import at, flat, how_many
from tokenkit.models.outputs import Outputs


@dataclass
class FocalSettings:
    """Focal loss on the student's own tokens."""

    gamma: float = key(
        2.0, "how much less well predicted tokens count (0: cross-entropy)", minimum=0
    )


@dataclass(frozen=True)
class Counted:
    """The tokens that count, ``[N]`` each."""

    places: Tensor  # where they are predicted, one place before their own
    labels: Tensor


def counted_tokens(student: Sequences, teacher: Sequences | None) -> Counted:
    """Called where batches are made: a step need not ask the device how many tokens count."""
    row, place = student.counted.nonzero(as_tuple=True)
    return Counted(flat(row, place - 1, student.ids.shape[1]), student.ids[row, place])


@LOSSES.register("focal")
class Focal(Loss):
    """Mean of −(1 − p)^γ log p over tokens under the loss mask."""

    section, Settings = "focal", FocalSettings
    needs = frozenset({"hidden"})  # full logits are made from hidden states, some rows at a time
    needs_teacher = False
    pair = staticmethod(counted_tokens)

    def __init__(self, config: Config, student_tok=None, teacher_tok=None) -> None:
        super().__init__(config)
        self.gamma = config.focal.gamma

    def match(self, student: Sequences, teacher: Outputs | None) -> Counted:
        return self.paired(student, None)

    def count(self, match: Counted) -> Tensor:
        return how_many(match.places)

    def forward(
        self, match: Counted, student: Outputs, teacher: Outputs | None, count: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        def focal(logits: Tensor, labels: Tensor) -> Tensor:
            logprob = logits.log_softmax(-1).gather(1, labels[:, None]).squeeze(1)
            return -((1.0 - logprob.exp()) ** self.gamma) * logprob

        def right(logits: Tensor, labels: Tensor) -> Tensor:
            return (logits.argmax(-1) == labels).float()

        hidden = at(student.hidden, match.places)
        total = student.vocabulary.chunked_loss(focal, hidden, match.labels)
        with torch.no_grad():
            correct = student.vocabulary.chunked_loss(right, hidden, match.labels)
        return total / count, {"focal/accuracy": correct / count}
