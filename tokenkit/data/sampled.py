"""A new tokenizer for every optimizer step: what ZeTT trains its hypernetwork on.

The tokenizer of step s follows from the seed, s, and the training texts from the step's first on,
so all ranks, workers and micro-batches of the step have the same, and a resumed run too.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from tokenkit.data.collate import Collator
from tokenkit.data.order import Order
from tokenkit.data.read_row import text_of
from tokenkit.tokenizers import (
    ByteifiedTokenizer,
    SamplerSettings,
    count_pretokens,
    sample_tokenizer,
)
from tokenkit.tokenizers.sampling.token_forms import TokenForms, forms_for

if TYPE_CHECKING:
    from tokenkit.config import Config


@dataclass(frozen=True)
class Drawn:
    """A step's tokenizer."""

    tok: ByteifiedTokenizer
    forms: TokenForms


class TokenizerStream:
    """The tokenizers of all steps; remembers the last one made."""

    def __init__(
        self, config: Config, source_tok: ByteifiedTokenizer, source_rows: int, order: Order
    ) -> None:
        sampler = config.tokenizer_sampler
        self.settings = SamplerSettings(
            sampler.size_mean, sampler.size_std, sampler.size_min, sampler.size_max,
            sampler.max_bytes, sampler.noise_mean, sampler.noise_sigma,
        )  # fmt: skip
        self.source_tok, self.source_rows, self.order = source_tok, source_rows, order
        self.texts, self.characters = sampler.texts, sampler.text_characters
        self.batch_size, self.seed = config.training.batch_size, config.job.seed
        self.config = config
        self._step = -1
        self._drawn: Drawn | None = None
        self._first = 0
        self._held: list[str] = []  # texts read from position ``_first`` on

    def at(self, step: int) -> Drawn:
        """The tokenizer of optimizer step number ``step``."""
        if step != self._step:
            self._step, self._drawn = step, self._draw(step)
        return self._drawn

    def _draw(self, step: int) -> Drawn:
        generator = np.random.default_rng((self.seed, step))
        texts = self._texts_from(step * self.batch_size)
        counts = count_pretokens(self._span(text, generator) for text in texts)
        tok = sample_tokenizer(counts, self.settings, self.source_tok, generator).tok
        rows = (self.source_rows, self.settings.size_max)
        return Drawn(tok, forms_for(self.config, tok, self.source_tok, *rows))

    def _texts_from(self, begin: int) -> list[str]:
        """The texts from a position on. Steps overlap, so what was read is kept."""
        held = self._held[begin - self._first :] if begin >= self._first else []
        read, _ = self.order.rows(range(begin + len(held), begin + self.texts))
        self._first, self._held = begin, held + [text_of(row) for row in read]
        return self._held

    def _span(self, text: str, generator: np.random.Generator) -> str:
        """A piece of a text, from a random place on."""
        room = max(0, len(text) - self.characters)
        start = int(generator.integers(room + 1))
        return text[start : start + self.characters]


@dataclass
class SampledCollator:
    """Each step's own tokenizer on the student's side; see :class:`StepCollator`."""

    collator: Collator
    tokenizers: TokenizerStream

    def at(self, step: int) -> tuple[Collator, TokenForms]:
        drawn = self.tokenizers.at(step)
        return replace(self.collator, student_tok=drawn.tok), drawn.forms
