"""Changes of logits that transformers' own do not make the same in a padded batch."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import LogitsProcessor, RepetitionPenaltyLogitsProcessor


class RepetitionPenalty(RepetitionPenaltyLogitsProcessor):
    """The penalty of tokens that stand in a row; those that pad it are none of them.

    Args:
        penalty: see :class:`tokenkit.inference.sampling.Sampling`.
        real: bool ``[B, P]``, tokens of the prompts.
    """

    def __init__(self, penalty: float, real: Tensor) -> None:
        super().__init__(penalty)
        self.padding = ~real

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Logits ``[B, V]`` after ids ``[B, T]``."""
        beyond = scores.shape[-1]  # transformers takes this id for no token
        prompt = input_ids[:, : self.padding.shape[1]].masked_fill(self.padding, beyond)
        ids = torch.cat([prompt, input_ids[:, self.padding.shape[1] :]], 1)
        return super().__call__(ids, scores)


class TokensOnly(LogitsProcessor):
    """No probability for rows of the output matrix that belong to no token.

    Args:
        tokens: size of the tokenizer.
    """

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Logits ``[B, V]``, a copy."""
        beyond = torch.arange(scores.shape[-1], device=scores.device) >= self.tokens
        return scores.masked_fill(beyond, -torch.inf)
