"""Validation on tokenizers that training has never seen."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from tokenkit.config import Config
from tokenkit.evaluation.bits_per_byte import evaluate_bits_per_byte, writable_texts
from tokenkit.models.causal_lm import CausalLM
from tokenkit.parallelisms import Parallel
from tokenkit.tokenizers import ByteifiedTokenizer, load_tokenizer
from tokenkit.tokenizers.sampling.token_forms import TokenForms, forms_for

BITS = "validation/bits_per_byte"


class Validation:
    """Bits per byte of a model in training, with its own tokenizer or with unseen ones.

    Args:
        texts: validation texts; without any, nothing is evaluated.
        also: other tokenizers that must be able to write the texts.
    """

    def __init__(
        self,
        config: Config,
        student_tok: ByteifiedTokenizer,
        texts: list[str],
        student: CausalLM,
        parallel: Parallel,
        also: Sequence[ByteifiedTokenizer] = (),
    ) -> None:
        self.config, self.texts, self.parallel = config, texts, parallel
        self.student_tok = student_tok
        specs = config.eval.tokenizers if texts else []
        self.unseen: dict[str, tuple[ByteifiedTokenizer, TokenForms]] = {}
        for spec in specs:
            tok = load_tokenizer(spec, like=student_tok, date=config.chat.date)
            forms = forms_for(config, tok, student_tok, student.vocabulary.input.shape[0])
            name = _short_name(spec, self.unseen)
            self.unseen[name] = tok, forms.map(lambda t: t.to(parallel.device))
        if texts:
            toks = [student_tok, *(tok for tok, _ in self.unseen.values()), *also]
            self.texts = writable_texts(toks, texts)

    def due(self, step: int, last: bool) -> bool:
        """Whether to evaluate after ``step`` steps."""
        return bool(self.texts) and (step % self.config.eval.interval == 0 or last)

    @torch.no_grad()
    def __call__(self, student: CausalLM) -> dict[str, float]:
        """Metrics by name: of the own tokenizer, or of each unseen one and their mean."""
        if not self.unseen:
            return {BITS: self._evaluate(student, self.student_tok, None)}
        found = {
            f"{BITS}/{key}": self._evaluate(student, tok, forms)
            for key, (tok, forms) in self.unseen.items()
        }
        return {BITS: sum(found.values()) / len(found), **found}

    def _evaluate(
        self, student: CausalLM, tok: ByteifiedTokenizer, forms: TokenForms | None
    ) -> float:
        with student.opened(forms):
            return evaluate_bits_per_byte(student, tok, self.texts, self.config, self.parallel)


def _short_name(spec: str, taken: dict) -> str:
    """The last part of a spec's path, made different from those taken."""
    name = spec.split(":source=")[0].rstrip("/").rsplit("/", 1)[-1]
    return name if name not in taken else f"{name}_{len(taken)}"
