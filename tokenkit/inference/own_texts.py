"""Texts that a model itself writes, from its whole distribution."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from tokenkit.inference.generate import Continuation, generate
from tokenkit.inference.model import TextModel
from tokenkit.inference.sampling import Sampling
from tokenkit.tokenizers.roles import context_id


def whole_distribution(max_new_tokens: int, seed: int | None = None) -> Sampling:
    """Temperature 1, nothing cut off: what is drawn is what the model believes."""
    return Sampling(max_new_tokens=max_new_tokens, temperature=1.0, seed=seed)


@dataclass(frozen=True)
class OwnText:
    """A text by a model, and what it was asked to go on from ("": nothing)."""

    prompt: str
    text: str


def own_texts(
    model: TextModel,
    count: int,
    max_new_tokens: int,
    *,
    prompts: Sequence[str] = (),
    batch_size: int = 8,
    seed: int = 0,
) -> list[OwnText]:
    """Texts that other models may be asked about; fewer than ``count`` if some are left out.

    They go on from the prompts in turn, each behind the token that texts begin with (as bits per
    byte are measured), or from that token alone, up to the first special token. A text that was
    cut by its length ends with its last whole word, since half a word is easy for nobody but the
    model that cut it. Empty texts, and those with bytes that are no UTF-8, are left out.
    """
    given = [prompts[number % len(prompts)] if prompts else "" for number in range(count)]
    begin = context_id(model.tok)
    starts = [[begin, *ids.tolist()] for ids in model.tok.encode_texts(given, as_text=True)]
    sampling = whole_distribution(max_new_tokens, seed)
    ends = sorted({*model.ends, *model.spelling.hidden})
    found = generate(model, starts, sampling, batch_size, ends=ends)
    made = [
        OwnText(prompt, whole_words(continuation))
        for prompt, continuation in zip(given, found, strict=True)
    ]
    return [own for own in made if own.text.strip() and "\ufffd" not in own.text]


def whole_words(made: Continuation) -> str:
    """The text, without a last word that its length may have cut."""
    return re.sub(r"\s*\S*$", "", made.text) if made.end == "length" else made.text
