"""Lexical loss (ZeTT, arXiv 2405.07883, §3.3): keep the embeddings of tokens that both have.

Mean squared distance between the student's row and the teacher's row of every token that the
teacher's tokenizer spells as this one token (see
:func:`~tokenkit.tokenizers.sampling.token_forms.shared_tokens`), in units of the mean norm of the
teacher's rows; mean over input and output matrices.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from tokenkit.batch import Sequences
from tokenkit.config import Config, to_toml
from tokenkit.config.validate_hypernet import trains_vocabulary
from tokenkit.errors import ConfigError, ModelError
from tokenkit.losses.base import Loss
from tokenkit.losses.registry import LOSSES
from tokenkit.models.outputs import Outputs


def lexical_distance(mine: Tensor, theirs: Tensor) -> Tensor:
    """Mean over rows of ‖mine − theirs‖², divided by the mean of ‖theirs‖; ``[P, D]`` each."""
    mine, theirs = mine.float(), theirs.float()
    return (mine - theirs).square().sum(-1).mean() / theirs.norm(dim=-1).mean().clamp(min=1e-30)


@LOSSES.register("lexical")
class Lexical(Loss):
    """Distance of shared tokens' embeddings; the same for every batch."""

    needs = frozenset({"vocabulary"})
    reaches_layers = False

    @classmethod
    def problems(cls, config: Config) -> Iterator[str]:
        if not trains_vocabulary(config):
            yield (
                'student.train_embeddings = false leaves loss "lexical" nothing to train: set it '
                "to true, or leave the loss out"
            )
        if config.tokenizer_sampler.enable and config.teacher.model:
            yield (
                'loss.names: "lexical" compares sampled tokens with the student\'s own; with '
                f"tokenizer_sampler.enable and teacher.model = {to_toml(config.teacher.model)} "
                "leave it out"
            )

    def __init__(self, config: Config, student_tok=None, teacher_tok=None) -> None:
        from tokenkit.tokenizers.sampling.token_forms import shared_tokens

        super().__init__(config)
        self.student_ids, self.teacher_ids = shared_tokens(student_tok, teacher_tok)
        if not len(self.student_ids):
            raise ConfigError("loss.names: 'lexical' needs tokens that both vocabularies have")

    def match(self, student: Sequences, teacher: Outputs) -> Tensor:
        """Number of rows, by which the (constant) value is shared among micro-batches."""
        return torch.full((), float(len(student.ids)), device=student.ids.device)

    def count(self, match: Tensor) -> Tensor:
        return match

    def forward(
        self, match: Tensor, student: Outputs, teacher: Outputs, count: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        ours, theirs = student.vocabulary, teacher.vocabulary
        matrices = [(ours.input_matrix, theirs.input_matrix)]
        if ours.output is not None:
            matrices.append((ours.output_matrix, theirs.output_matrix))
        widths = [matrix.shape[1] for matrix in matrices[0]]
        if widths[0] != widths[1]:
            raise ModelError(
                f"loss lexical: embeddings of width {widths[0]} (student) and {widths[1]} "
                "(teacher) cannot be compared"
            )
        mine, given = self._shared(match.device) if ours.tokens is None else ours.tokens.shared()
        distances = [
            lexical_distance(ours.look_up(a, mine), theirs.look_up(b, given)) for a, b in matrices
        ]
        return torch.stack(distances).mean() * match / count, {}

    def _shared(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Both sides' ids of the shared tokens; they are moved once."""
        if self.student_ids.device != device:
            self.student_ids, self.teacher_ids = (
                ids.to(device) for ids in (self.student_ids, self.teacher_ids)
            )
        return self.student_ids, self.teacher_ids
