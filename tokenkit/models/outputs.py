"""What a model says of the sequences it read."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from tokenkit.batch import Sequences
from tokenkit.ops.linear_scores import Scores, hidden_gradient

if TYPE_CHECKING:
    from tokenkit.models.vocabulary.table import Vocabulary

# What may be asked of a forward pass (the vocabulary itself costs nothing).
NEEDS = ("label", "boundary", "embeddings", "hidden", "hidden_states", "qkv", "vocabulary")
CACHED = frozenset({"label", "boundary"})  # what of a teacher can be kept on disk


class Outputs(NamedTuple):
    """One forward pass; ``[B, T]`` unless said. Losses find None (or nothing) where none asked.

    A named tuple, so that FSDP finds the tensors in it.

    Attributes:
        seq: what was read.
        token_logprob: fp32, log p(this token | those before), at the token's own place; 0 where
            it is not ``seq.scored``.
        boundary_logprob: fp32, log-prob that a boundary token follows this one.
        correct: bool, no token was likelier than this one.
        scores: of the N real tokens, from which the above were put back into rows.
        embeddings: ``[B, T, D]`` input embeddings.
        hidden: ``[B, T, D]`` last hidden states.
        hidden_states: ``[B, T, D]`` each: embeddings, every layer's output, the last one normed.
        qkv: ``[B, T, Q + K + V]`` of each layer.
        vocabulary: turns ``hidden`` into logits.
    """

    seq: Sequences
    token_logprob: Tensor | None = None
    boundary_logprob: Tensor | None = None
    correct: Tensor | None = None
    scores: Scores | None = None
    embeddings: Tensor | None = None
    hidden: Tensor | None = None
    hidden_states: tuple[Tensor, ...] = ()
    qkv: tuple[Tensor, ...] = ()
    vocabulary: Vocabulary | None = None

    def with_scores(self, scores: Scores) -> Outputs:
        """Put scores ``[N]`` of the real tokens' places back into rows.

        A place's label score is that of the next token, where it belongs.
        """
        seq = self.seq
        size = seq.ids.numel()

        def spread(values: Tensor, shift: int) -> Tensor:
            flat = values.new_zeros(size + shift).index_copy(0, seq.real_index + shift, values)
            return flat[:size].view(seq.ids.shape)

        boundary = scores.boundary_logprob
        return self._replace(
            token_logprob=torch.where(seq.scored, spread(scores.label_logprob, 1), 0.0),
            boundary_logprob=None if boundary is None else spread(boundary, 0),
            correct=spread(scores.correct, 1) & seq.scored,
            scores=scores,
        )

    @torch.no_grad()
    def hidden_gradient(self, on_token: Tensor | None, on_boundary: Tensor | None) -> Tensor:
        """Gradient ``[B, T, D]`` on the hidden states of a loss with the given score gradients.

        A linear combination per token of kept directions: no matmul with the vocabulary. The scores
        must have been computed with ``keep_directions``.
        """
        seq, scores = self.seq, self.scores
        label = scores.label_logprob.new_zeros(seq.ids.numel() + 1)
        if on_token is not None:
            label[:-1] = torch.where(seq.scored, on_token, 0.0).flatten()
        index = seq.real_index
        boundary = None if on_boundary is None else on_boundary.flatten().index_select(0, index)
        grad = hidden_gradient(scores, label.index_select(0, index + 1), boundary)
        full = grad.new_zeros(seq.ids.numel(), grad.shape[-1])
        return full.index_copy(0, index, grad).view(*seq.ids.shape, -1)
