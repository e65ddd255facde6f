"""Context parallelism: ranks that have the same rows read some of their tokens each.

Tokens are dealt after they are embedded, attention gathers keys and values, and the last hidden
states are joined, so that losses see whole rows. The N positions to be scored are dealt, too. Of n
ranks, rank r has the r-th and the r-th last of 2n stretches of a row, since late tokens attend to
more than early ones.

Every collective has its exact adjoint, and all ranks compute the same loss: what a rank has of a
parameter's gradient is its part of n times that gradient. FSDP, which shards over these ranks too,
takes the mean.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.bias import causal_lower_right
from transformers import AttentionInterface

from tokenkit.batch import Sequences
from tokenkit.errors import ConfigError
from tokenkit.models.causal_lm import CausalLM
from tokenkit.models.vocabulary.table import Vocabulary
from tokenkit.ops.linear_scores import Scores
from tokenkit.parallelisms.collectives import gather_tokens

TOKENS = 1  # the dimension of tokens in hidden states [B, T, D]
ATTENTION = "context_parallel"


class Context:
    """The ranks of a context, and which stretches of a row this one has."""

    def __init__(self, group: dist.ProcessGroup) -> None:
        self.group = group
        self.rank, self.ranks = dist.get_rank(group), dist.get_world_size(group)
        self.mine = (self.rank, 2 * self.ranks - 1 - self.rank)

    def split(self, states: Tensor) -> Tensor:
        """This rank's tokens of ``[B, T, D]``."""
        pieces = states.chunk(2 * self.ranks, TOKENS)
        return torch.cat([pieces[number] for number in self.mine], TOKENS)

    def join(self, part: Tensor, dim: int = TOKENS) -> Tensor:
        """All ranks' tokens, in the order of the row."""
        pieces = gather_tokens(part, dim, self.group).chunk(2 * self.ranks, dim)
        early = [pieces[2 * rank] for rank in range(self.ranks)]
        late = [pieces[2 * rank + 1] for rank in reversed(range(self.ranks))]
        return torch.cat(early + late, dim)

    def positions(self, length: int, device: torch.device) -> Tensor:
        """``[1, T / n]``, where this rank's tokens stand in rows of T."""
        return self.split(torch.arange(length, device=device)[None])

    def attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        scale: float | None,
        window: int | None,
        softcap: float | None,
    ) -> Tensor:
        """Causal attention ``[B, H, T / n, d]`` of this rank's queries to all keys."""
        keys, values = self.join(torch.stack([key, value]), dim=3)
        groups = query.shape[1] // key.shape[1]
        if groups > 1:
            keys, values = (x.repeat_interleave(groups, 1) for x in (keys, values))
        found = []
        for number, part in zip(self.mine, query.chunk(2, 2), strict=True):
            begin, end = number * part.shape[2], (number + 1) * part.shape[2]
            first = max(0, begin - window + 1) if window else 0
            seen = keys[:, :, first:end], values[:, :, first:end]
            if window is None and softcap is None:
                mask: Any = causal_lower_right(part.shape[2], end)
                made = F.scaled_dot_product_attention(part, *seen, attn_mask=mask, scale=scale)
            else:
                at = torch.arange(begin, end, device=query.device)[:, None]
                ago = at - torch.arange(first, end, device=query.device)
                sees = ago >= 0 if window is None else (ago >= 0) & (ago < window)
                made = _masked_attention(part, *seen, sees, scale, softcap)
            found.append(made)
        return torch.cat(found, 2)

    def arrange(self, embeddings: Tensor, read: Callable[..., Tensor], multiple: int) -> Tensor:
        """Have this rank's tokens read; all last hidden states ``[B, T, D]``."""
        length = embeddings.shape[1]
        padded = F.pad(embeddings, (0, 0, 0, -length % (2 * self.ranks * multiple)))
        positions = self.positions(padded.shape[1], padded.device)
        return self.join(read(self.split(padded), position_ids=positions))[:, :length]

    def scores(
        self,
        vocabulary: Vocabulary,
        hidden: Tensor,
        seq: Sequences,
        boundary: bool,
        keep_directions: bool,
    ) -> Scores:
        """Scores ``[N]`` of all real tokens, of which this rank computes some."""
        number = len(seq.real_index)
        index = F.pad(seq.real_index, (0, -number % self.ranks)).chunk(self.ranks)[self.rank]
        part = vocabulary.scores(hidden, seq, boundary, keep_directions, index)
        return Scores(
            *(None if x is None else gather_tokens(x, 0, self.group)[:number] for x in part)
        )


def _masked_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    sees: Tensor,
    scale: float | None,
    softcap: float | None,
) -> Tensor:
    if softcap is None:
        return F.scaled_dot_product_attention(query, key, value, attn_mask=sees, scale=scale)
    scores = query @ key.mT * (query.shape[-1] ** -0.5 if scale is None else scale)
    scores = softcap * torch.tanh(scores / softcap)
    weights = scores.masked_fill(~sees, torch.finfo(scores.dtype).min).softmax(-1, torch.float32)
    return weights.to(query.dtype) @ value


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """An attention function of transformers; rows are causal and padded on the right."""
    context: Context = module.context
    found = context.attend(query, key, value, scaling, sliding_window, softcap)
    return found.transpose(1, 2).contiguous(), None


AttentionInterface.register(ATTENTION, _attention)


def apply_context_parallel(model: CausalLM, group: dist.ProcessGroup) -> None:
    """Let the ranks of a group share the tokens of each row.

    Raises:
        ConfigError: if a position beyond the text, where rows are padded, could not be read.
    """
    context = Context(group)
    if model.architecture.learned_positions:
        raise ConfigError(
            f"parallelism.context_parallel_degree = {context.ranks}: model_type "
            f"'{model.backbone.config.model_type}' has learned positions, which cannot be padded; "
            "use 1"
        )
    model.backbone.config._attn_implementation = ATTENTION
    for layer in model.layers:
        name = model.architecture.attention_inputs[0].rpartition(".")[0]
        layer.get_submodule(name).context = context
    tokens, features = model.join_tokens, model.join_features
    model.join_tokens = lambda states: context.join(tokens(states))
    model.join_features = lambda projection: context.join(features(projection))
    multiple = model.token_multiple
    model.arrange = lambda embeddings, read: context.arrange(embeddings, read, multiple)
    model.scores = context.scores
