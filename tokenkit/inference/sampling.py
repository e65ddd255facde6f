"""How the next token is chosen, and when a text ends."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tokenkit.errors import ConfigError


@dataclass(frozen=True)
class Sampling:
    """Greedy by default; a temperature, or anything that cuts a distribution, draws.

    Attributes:
        max_new_tokens: longest continuation.
        temperature: divides logits; None is 1 where something is drawn, 0 is greedy.
        top_k: only the k likeliest tokens may be drawn; 0: all.
        top_p: only the likeliest tokens that together have this probability (Holtzman et al.,
            arXiv 1904.09751).
        min_p: only tokens with at least this share of the likeliest one's probability (Nguyen et
            al., arXiv 2407.01082).
        repetition_penalty: divides positive logits of tokens that stand in prompt or text, and
            multiplies negative ones (Keskar et al., arXiv 1909.05858).
        stop: strings that end a text, which is cut before them.
        seed: of all that is drawn; None leaves torch's generator as it is.

    Raises:
        ConfigError: if a value is out of range.
    """

    max_new_tokens: int = 256
    temperature: float | None = None
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    stop: tuple[str, ...] = ()
    seed: int | None = None

    def __post_init__(self) -> None:
        for problem in self._problems():
            raise ConfigError(problem)

    def _problems(self) -> Iterator[str]:
        if self.max_new_tokens < 1:
            yield f"--max-new-tokens {self.max_new_tokens} must be at least 1"
        if self.temperature is not None and not 0 <= self.temperature < math.inf:
            yield f"--temperature {self.temperature} must be a number from 0 on (0 is greedy)"
        if self.top_k < 0:
            yield f"--top-k {self.top_k} must be at least 0 (0: all tokens)"
        if not 0 < self.top_p <= 1:
            yield f"--top-p {self.top_p} must be above 0 and at most 1"
        if not 0 <= self.min_p <= 1:
            yield f"--min-p {self.min_p} must be from 0 to 1"
        if not 0 < self.repetition_penalty < math.inf:
            yield f"--repetition-penalty {self.repetition_penalty} must be above 0 (1: none)"
        if self.temperature == 0 and self._cuts:
            yield "--temperature 0 is greedy: leave out --top-k, --top-p and --min-p, which draw"
        if self.seed is not None and not 0 <= self.seed < 2**63:
            yield f"--seed {self.seed} must be from 0 to 2^63 - 1"
        for text in self.stop:
            if not text:
                yield "--stop '' is empty: it would end every text at once"
            elif not is_unicode(text):
                yield f"--stop {text!r} is not valid UTF-8"

    @property
    def _cuts(self) -> bool:
        return bool(self.top_k or self.top_p < 1 or self.min_p)

    @property
    def draws(self) -> bool:
        """Whether tokens are drawn rather than the likeliest taken."""
        return self._cuts if self.temperature is None else self.temperature > 0

    def options(self) -> dict[str, Any]:
        """What ``generate`` of transformers is given; the repetition penalty is ours.

        Every key is said, since it would take the model's own for what is not.
        """
        options: dict[str, Any] = {
            "max_new_tokens": self.max_new_tokens,
            "do_sample": self.draws,
            "num_beams": 1,
            "repetition_penalty": 1.0,
            "no_repeat_ngram_size": 0,
            "typical_p": 1.0,
            "epsilon_cutoff": 0.0,
            "eta_cutoff": 0.0,
        }
        if self.draws:
            temperature = 1.0 if self.temperature is None else self.temperature
            options |= {"temperature": temperature, "top_k": self.top_k, "top_p": self.top_p}
            options["min_p"] = self.min_p or None
        return options


def is_unicode(text: str) -> bool:
    """Whether a text can be written as UTF-8: it has no lone halves of surrogate pairs."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
