"""Continuations of prompts: batches, stop strings, and text while it is written.

Tokens are chosen by ``generate`` of transformers, with its KV cache. What ends a text is ours:
stop strings are looked for in bytes, so that it does not matter how tokens cut them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteria

from tokenkit.errors import DataError
from tokenkit.inference.model import TextModel
from tokenkit.inference.processors import RepetitionPenalty, TokensOnly
from tokenkit.inference.sampling import Sampling
from tokenkit.inference.spelling import TextPieces

End = Literal["end", "stop", "length"]


@dataclass(frozen=True)
class Continuation:
    """What a model wrote behind a prompt.

    Attributes:
        text: without special tokens, cut before a stop string.
        ids: all tokens that were chosen, those of an end or a stop string too.
        end: why it ended: a token that ends texts, a stop string, or its length.
    """

    text: str
    ids: list[int]
    end: End


class Watch(StoppingCriteria):
    """Reads each new token of each row, and says which rows have ended.

    Args:
        rows: texts of the rows, to be written to.
        ends: ids that end a text.
        on_text: called with the number of a row and each piece of its text.
    """

    def __init__(
        self, rows: list[TextPieces], ends: Sequence[int], on_text: Callable[[int, str], None]
    ) -> None:
        self.rows, self.ends, self.on_text = rows, set(ends), on_text
        self.ids: list[list[int]] = [[] for _ in rows]
        self.reasons: list[End] = ["length"] * len(rows)

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        """bool ``[B]``: rows that are done, after ids ``[B, T]``."""
        for row, token in enumerate(input_ids[:, -1].tolist()):
            if self.reasons[row] == "length":
                self._read(row, token)
        done = [reason != "length" for reason in self.reasons]
        return torch.tensor(done, device=input_ids.device)

    def _read(self, row: int, token: int) -> None:
        self.ids[row].append(token)
        if token in self.ends:
            self.reasons[row] = "end"
            return
        self._say(row, self.rows[row].put(token))
        if self.rows[row].stopped:
            self.reasons[row] = "stop"

    def _say(self, row: int, piece: str) -> None:
        if piece:
            self.on_text(row, piece)

    def finish(self) -> list[Continuation]:
        """The rows, when nothing follows."""
        for row, pieces in enumerate(self.rows):
            self._say(row, pieces.finish())
        found = zip(self.rows, self.ids, self.reasons, strict=True)
        return [Continuation(pieces.text, ids, reason) for pieces, ids, reason in found]


def padded_left(prompts: Sequence[Sequence[int]], pad: int) -> tuple[Tensor, Tensor]:
    """Ids and which of them are real, ``[B, P]`` each; rows end together."""
    width = max(map(len, prompts))
    ids = torch.full((len(prompts), width), pad)
    real = torch.zeros(len(prompts), width, dtype=torch.bool)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        real[row, width - len(prompt) :] = True
    return ids, real


def check_lengths(model: TextModel, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> None:
    """Refuse what no model can go on from.

    Raises:
        DataError: if a prompt has no token, unknown ones, or is too long for the model's context.
    """
    rows, limit = model.rows, model.context
    for number, prompt in enumerate(prompts, 1):
        if not len(prompt):
            raise DataError(f"prompt {number} is empty: the tokenizer makes no token of it")
        if max(prompt) >= rows:
            raise DataError(
                f"prompt {number} has token {max(prompt)}, but '{model.name}' has {rows} rows: "
                f"tokenizer '{model.tok.spec}' is not this model's"
            )
        if limit is not None and len(prompt) + max_new_tokens > limit:
            raise DataError(
                f"prompt {number} has {len(prompt)} tokens; with --max-new-tokens "
                f"{max_new_tokens} that is more than the {limit} that '{model.name}' reads"
            )


@torch.no_grad()
def generate_batch(
    model: TextModel,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    on_text: Callable[[int, str], None] = lambda row, piece: None,
    ends: Sequence[int] = (),
) -> list[Continuation]:
    """Continuations of prompts (ids), all at once; the seed is not looked at.

    Args:
        on_text: called with the number of a row and each final piece of its text.
        ends: ids that end a text; default :attr:`TextModel.ends`.

    Raises:
        DataError: see :func:`check_lengths`.
    """
    check_lengths(model, prompts, sampling.max_new_tokens)
    tok, spelling = model.tok, model.spelling
    # One that was added to the tokenizer may have no row; nobody looks at what is padding.
    pad = tok.pad_id if tok.pad_id < model.rows else 0
    ids, real = (t.to(model.model.device) for t in padded_left(prompts, pad))
    processors = LogitsProcessorList([TokensOnly(len(tok))])
    if sampling.repetition_penalty != 1:
        processors.append(RepetitionPenalty(sampling.repetition_penalty, real))
    rows = [TextPieces(spelling, sampling.stop, prompt[-1] in spelling.apart) for prompt in prompts]
    ends = list(ends or model.ends)
    watch = Watch(rows, ends, on_text)
    config = GenerationConfig(**sampling.options(), eos_token_id=ends, pad_token_id=pad)
    model.model.generate(
        input_ids=ids, attention_mask=real.long(), generation_config=config,
        logits_processor=processors, stopping_criteria=[watch],
    )  # fmt: skip
    return watch.finish()


def generate(
    model: TextModel,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    batch_size: int = 1,
    on_text: Callable[[int, str], None] = lambda row, piece: None,
    ends: Sequence[int] = (),
) -> Iterator[Continuation]:
    """Continuations of prompts, in their order.

    What is greedy does not depend on ``batch_size``; what is drawn does, as on the seed.

    Args:
        prompts: ids, see :meth:`TextModel.encode_prompt` and :meth:`TextModel.encode_chat`.
        batch_size: prompts that are continued together.
        on_text: called with the number of a prompt and each final piece of its text.
        ends: ids that end a text; default :attr:`TextModel.ends`.

    Raises:
        DataError: if a prompt is empty, or too long for the model.
    """
    check_lengths(model, prompts, sampling.max_new_tokens)
    if sampling.seed is not None:
        torch.manual_seed(sampling.seed)
    for begin in range(0, len(prompts), batch_size):

        def say(row: int, piece: str, begin: int = begin) -> None:
            on_text(begin + row, piece)

        batch = prompts[begin : begin + batch_size]
        yield from generate_batch(model, batch, sampling, say, ends)
