"""Several models as one: each reads the same text, and their next-token distributions are combined.

The first model is the *pivot*: the ensemble speaks in its tokens. With p_m the distribution of
model m over these and w_m its weight (they are made to sum to 1), the ensemble's is

* ``mean_prob``: Σ_m w_m p_m,
* ``mean_logits``: softmax(Σ_m w_m log p_m), a product of experts. ``mean_logprob`` is the same,
  as logits differ from log-probs by a number that the softmax takes out again,
* ``mined_pivot``: ``mean_prob`` of models with other vocabularies, whose probabilities move to the
  pivot's nearest tokens by edit distance (Wan et al., arXiv 2401.10491); a baseline.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor

from tokenkit.errors import DataError
from tokenkit.inference.processors import RepetitionPenalty
from tokenkit.inference.token_maps import TokenMap, mined_map, shared_map
from tokenkit.tokenizers import ByteifiedTokenizer
from tokenkit.tokenizers.roles import context_id

COMBINATIONS = ("mean_prob", "mean_logits", "mean_logprob", "mined_pivot")


@dataclass
class Member:
    """A model of an ensemble.

    Attributes:
        model: of ``transformers``, on its own device.
        tokenizer: as ``transformers`` loads it; writes chats.
        tok: the same as bytes.
        map: between its tokens and the pivot's.
    """

    name: str
    model: Any
    tokenizer: Any
    tok: ByteifiedTokenizer
    weight: float
    map: TokenMap

    def read(self, ids: Sequence[int], pivot: ByteifiedTokenizer) -> list[int]:
        """Its own ids of a context in pivot ids; tokens that it does not have are left out.

        A text's BOS is each model's own, where its texts begin with one. A model of another
        vocabulary reads the text, not its nearest tokens.
        """
        begins = bool(pivot.text_bos) and list(ids[:1]) == [pivot.ids[pivot.text_bos]]
        if self.map.moves:
            reads = self.tok.encode_text(pivot.decode(ids[begins:]))
        else:
            reads = self.map.reads[torch.tensor(ids[begins:], dtype=torch.int64)].tolist()
        own = [self.tok.ids[self.tok.text_bos]] if self.tok.text_bos else []
        return own + [i for i in reads if i >= 0] or [context_id(self.tok)]

    def continued(self, ids: Sequence[int], pivot: ByteifiedTokenizer) -> list[int]:
        """Its own ids of a continuation, one for each.

        Raises:
            DataError: if it lacks one.
        """
        reads = self.map.reads[torch.tensor(ids, dtype=torch.int64)].tolist()
        if -1 in reads:
            token = pivot.tokens[ids[reads.index(-1)]]
            raise DataError(f"model '{self.name}' has no token {token!r}, which a task asks for")
        return reads

    @torch.no_grad()
    def logprobs(
        self, contexts: list[list[int]], continuations: list[list[int]], only_tokens: bool = False
    ) -> Tensor:
        """fp32 ``[N, V]`` of the pivot's tokens, at the N tokens of all continuations.

        Args:
            contexts, continuations: own ids.
            only_tokens: rows that belong to no token take no probability.
        """
        rows = [[*a, *b][:-1] for a, b in zip(contexts, continuations, strict=True)]
        length = max(map(len, rows))
        ids = torch.tensor([row + [0] * (length - len(row)) for row in rows])
        logits = self.model(ids.to(self.model.device), use_cache=False).logits
        parts = zip(logits, rows, continuations, strict=True)
        wanted = torch.cat([own[len(row) - len(c) : len(row)] for own, row, c in parts])
        seen = len(self.tok) if only_tokens else None
        return self.map.to_pivot(wanted[:, :seen].float().log_softmax(-1))


class Ensemble:
    """Members in lockstep; the first is the pivot.

    Args:
        parts: name, model, tokenizer, tokenizer as bytes and weight of each.
        combine: one of :data:`COMBINATIONS`.

    Raises:
        TokenizerError: if their regular tokens differ (unless ``combine`` is "mined_pivot").
    """

    def __init__(
        self, parts: list[tuple[str, Any, Any, ByteifiedTokenizer, float]], combine: str
    ) -> None:
        self.combination = combine
        pivot, total = parts[0][3], sum(weight for *_, weight in parts)
        self.members = []
        for number, (name, model, tokenizer, tok, weight) in enumerate(parts):
            moved = combine == "mined_pivot" and number
            made = mined_map(pivot, tok) if moved else shared_map(pivot, tok)
            self.members.append(Member(name, model, tokenizer, tok, weight / total, made))
        readable = torch.stack([m.map.reads for m in self.members]) >= 0
        self.readable = readable.all(0)  # tokens that all can go on from

    @property
    def pivot(self) -> Member:
        return self.members[0]

    def combine(self, logprobs: Sequence[Tensor]) -> Tensor:
        """Log-probs ``[N, V]`` of the ensemble from those of each member."""
        weights = [member.weight for member in self.members]
        device = logprobs[0].device
        if self.combination in ("mean_prob", "mined_pivot"):
            total = logprobs[0] + math.log(weights[0])
            for weight, own in zip(weights[1:], logprobs[1:], strict=True):
                total = torch.logaddexp(total, own.to(device) + math.log(weight))
            return total
        total = logprobs[0] * weights[0]
        for weight, own in zip(weights[1:], logprobs[1:], strict=True):
            total = total + own.to(device) * weight
        return total.log_softmax(-1)


class Stream:
    """A member that reads on token by token, with its own KV cache.

    Args:
        contexts: own ids of each row.
        penalty: of logits of tokens that stand in a row already; 1: none.
    """

    def __init__(self, member: Member, contexts: list[list[int]], penalty: float = 1.0) -> None:
        self.member, self.cache, self.penalty = member, None, penalty
        length = max(map(len, contexts))
        pads = [length - len(row) for row in contexts]
        self.ids = torch.tensor([[0] * n + row for n, row in zip(pads, contexts, strict=True)])
        self.mask = torch.tensor([[0] * n + [1] * (length - n) for n in pads])
        self.seen = self.ids  # all that was read, ``[B, T]``

    @torch.no_grad()
    def next_logprobs(self, new: Tensor | None) -> Tensor:
        """fp32 ``[B, V]`` of what follows, over the pivot's tokens.

        Args:
            new: ``[B]``, the pivot's ids that were chosen last; None at first.
        """
        if new is not None:
            # A row that has ended goes on with anything.
            self.ids = self.member.map.reads[new.cpu()].clamp(min=0)[:, None]
            self.mask = torch.cat([self.mask, torch.ones_like(self.ids)], 1)
            self.seen = torch.cat([self.seen, self.ids], 1)
        device = self.member.model.device
        positions = (self.mask.cumsum(1) - 1).clamp(min=0)[:, -self.ids.shape[1] :]
        found = self.member.model(
            self.ids.to(device), attention_mask=self.mask.to(device),
            position_ids=positions.to(device), past_key_values=self.cache, use_cache=True,
        )  # fmt: skip
        self.cache = found.past_key_values
        real = self.mask.bool().to(device)
        logits = penalised(found.logits[:, -1].float(), self.seen.to(device), real, self.penalty)
        return self.member.map.to_pivot(logits.log_softmax(-1))


def penalised(logits: Tensor, ids: Tensor, real: Tensor, penalty: float) -> Tensor:
    """Logits ``[B, V]`` after ids ``[B, T]``, of which those that are not ``real`` are padding."""
    return logits if penalty == 1.0 else RepetitionPenalty(penalty, real)(ids, logits)


class Lockstep(LogitsProcessor):
    """In the pivot's ``generate``: its scores become the ensemble's, so all else is as usual.

    Args:
        contexts: of each member but the pivot, own ids of each row.
        penalty: repetition penalty of each member's logits, by the tokens that it has read itself;
            ``generate`` must have none of its own. Of the pivot, ``real`` says which are padding.
        real: bool ``[B, P]``, tokens of the pivot's contexts; None: all.
    """

    def __init__(
        self,
        ensemble: Ensemble,
        contexts: list[list[list[int]]],
        penalty: float = 1.0,
        real: Tensor | None = None,
    ) -> None:
        self.ensemble, self.penalty, self.real = ensemble, penalty, real
        others = ensemble.members[1:]
        self.streams = [Stream(m, rows, penalty) for m, rows in zip(others, contexts, strict=True)]
        self.begun = False

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        new, self.begun = input_ids[:, -1] if self.begun else None, True
        real = torch.ones_like(input_ids).bool() if self.real is None else self.real
        logits = penalised(scores.float(), input_ids, real, self.penalty)
        own = self.ensemble.pivot.map.to_pivot(logits.log_softmax(-1))
        found = self.ensemble.combine([own, *(s.next_logprobs(new) for s in self.streams)])
        found = found.masked_fill(~self.ensemble.readable.to(found.device), -torch.inf)
        result = torch.full_like(scores, -torch.inf)  # rows without token stay impossible
        result[:, : found.shape[1]] = found
        return result.masked_fill(scores == -torch.inf, -torch.inf)
