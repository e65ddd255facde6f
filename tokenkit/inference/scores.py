"""How likely a model of transformers finds tokens, where it is not split into its parts."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch

from tokenkit.batch import Sequences
from tokenkit.models.outputs import Outputs


class PlainScores:
    """A whole model as what bits per byte are asked of.

    Args:
        model: as ``AutoModelForCausalLM`` loads it.
        tokens: size of its tokenizer; rows beyond get no probability.
    """

    def __init__(self, model: Any, tokens: int) -> None:
        self.model, self.tokens = model, tokens

    @torch.no_grad()
    def __call__(self, seq: Sequences, needs: Collection[str] = ("label",)) -> Outputs:
        """Log-probs ``[B, T]`` of the tokens; nothing else is known."""
        logits = self.model(input_ids=seq.ids, attention_mask=seq.mask.long()).logits
        found = torch.zeros(seq.ids.shape, device=seq.ids.device)
        for row, ids in enumerate(seq.ids):  # one row's logits in fp32 at a time
            logprobs = logits[row, :-1, : self.tokens].float().log_softmax(-1)
            found[row, 1:] = logprobs.gather(-1, ids[1:, None]).squeeze(-1)
        return Outputs(seq, token_logprob=found.masked_fill(~seq.scored, 0))
