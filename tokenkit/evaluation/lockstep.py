"""An ensemble behind lm-eval's interface: scoring and generation in lockstep.

The pivot's tokenizer cuts contexts and continuations into tokens, as for the pivot alone; each
member reads its own ids of these. A chat is written by each model's own template; the white space
before an answer that is scored is the pivot's.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from lm_eval.models.huggingface import HFLM
from torch import Tensor
from transformers import LogitsProcessorList

from tokenkit.errors import DataError
from tokenkit.evaluation.harness import AUTO_ON_CPU, Answer, ByteFairLM, TokenRequest
from tokenkit.inference.ensemble import Ensemble, Lockstep, Member
from tokenkit.tokenizers.roles import context_id


class LockstepLM(ByteFairLM):
    """An ensemble as a model of the harness.

    Args:
        options: ``batch_size``, ``max_bytes``.
    """

    def __init__(self, ensemble: Ensemble, **options: Any) -> None:
        pivot = ensemble.pivot
        super().__init__(
            pivot.model, pivot.tokenizer, lambda: pivot.tok, backend="causal", **options
        )
        self.ensemble, self.pivot = ensemble, pivot.tok
        # Each member's own writing of a chat, by the pivot's.
        self._chats: dict[str, list[str | None]] = {}
        self._documents = False  # contexts are the one token that a document follows
        self._texts: list[str] = []

    @property
    def max_length(self) -> int:
        own = super().max_length
        others = [
            getattr(member.model.config, "max_position_embeddings", None)
            for member in self.ensemble.members[1:]
        ]
        return min([own, *filter(None, others)])

    # What each model reads ----------------------------------------------------------------------

    def apply_chat_template(self, chat_history: list, add_generation_prompt: bool = True) -> str:
        """As the pivot writes it; the others' writing is kept for when they read."""

        def written(tokenizer: Any) -> str:
            stands_in: Any = SimpleNamespace(
                tokenizer=tokenizer, chat_template_args=self.chat_template_args
            )
            return HFLM.apply_chat_template(stands_in, chat_history, add_generation_prompt)

        text = written(self.tokenizer)
        others = [member.tokenizer for member in self.ensemble.members[1:]]
        self._chats[text] = [written(t) if t.chat_template else None for t in others]
        return text

    def _contexts(self, text: str, ids: list[int], scored: bool) -> list[list[int]]:
        """Own ids of a context, of each member but the pivot.

        Args:
            scored: white space at its end belongs to the continuation, as the harness has it.
        """
        others = self.ensemble.members[1:]
        if self._documents:
            rest = [m.continued(ids[1:], self.pivot) for m in others]
            return [[context_id(m.tok), *own] for m, own in zip(others, rest, strict=True)]
        writings = self._chats.get(text, [None] * len(others))
        if scored and text != text.rstrip():
            writings = [written and written.rstrip() for written in writings]
        return [
            member.read(ids, self.pivot) if written is None else _encode(member, written)
            for member, written in zip(others, writings, strict=True)
        ]

    # Scoring ------------------------------------------------------------------------------------

    def _score_documents(self, requests: list[TokenRequest], disable_tqdm: bool) -> list[Answer]:
        self._documents = True
        try:
            return super()._score_documents(requests, disable_tqdm)
        finally:
            self._documents = False

    def _score(
        self,
        requests: list[TokenRequest],
        disable_tqdm: bool = False,
        override_bs: int | None = None,
    ) -> list[Answer]:
        size = AUTO_ON_CPU if self.batch_size == "auto" else self.batch_size
        order = sorted(range(len(requests)), key=lambda i: -len(requests[i][1] + requests[i][2]))
        answers: list[Answer] = [(0.0, False)] * len(requests)
        for begin in range(0, len(order), size):
            chosen = order[begin : begin + size]
            for i, answer in zip(chosen, self._batch([requests[i] for i in chosen]), strict=True):
                answers[i] = answer
        return answers

    def _batch(self, requests: list[TokenRequest]) -> list[Answer]:
        """Of requests that are read together."""
        labels = [continuation for _, _, continuation in requests]
        room = [self.longest - len(continuation) for continuation in labels]
        contexts = [ids[-n:] for (_, ids, _), n in zip(requests, room, strict=True)]
        own: list[list[list[int]]] = []
        for (strings, ids, _), n in zip(requests, room, strict=True):
            text = strings[0] if strings else ""
            own.append([context[-n:] for context in self._contexts(text, ids, scored=True)])
        found = []
        for number, member in enumerate(self.ensemble.members):
            read = [rows[number - 1] for rows in own] if number else contexts
            wanted = [member.continued(c, self.pivot) for c in labels]
            found.append(member.logprobs(read, wanted, only_tokens=self._documents))
        combined = self.ensemble.combine(found)
        flat = torch.tensor([i for c in labels for i in c], device=combined.device)
        logprob = combined.gather(1, flat[:, None]).squeeze(1)
        likeliest = combined.argmax(1) == flat
        sizes = [len(continuation) for continuation in labels]
        parts = zip(logprob.split(sizes), likeliest.split(sizes), strict=True)
        return [(float(p.sum()), bool(greedy.all())) for p, greedy in parts]

    # Generation ---------------------------------------------------------------------------------

    def tok_batch_encode(self, strings: Any, *others: Any, **options: Any) -> Any:
        self._texts = list(strings)  # what _model_generate is about to go on from
        return super().tok_batch_encode(strings, *others, **options)

    def _model_generate(
        self, context: Tensor, max_length: int, stop: list[str], **options: Any
    ) -> Tensor:
        if options.get("num_beams", 1) != 1:
            raise DataError("generation_kwargs.num_beams: models in lockstep search no beams")
        mask = options["attention_mask"].bool()
        rows = [ids[own].tolist() for ids, own in zip(context, mask, strict=True)]
        pairs = zip(self._texts, rows, strict=True)
        read = [self._contexts(text, ids, scored=False) for text, ids in pairs]
        by_member = [list(contexts) for contexts in zip(*read, strict=True)]
        # It is of logits, so of each member's before they are combined.
        default = getattr(self.model.generation_config, "repetition_penalty", None)
        penalty = float(options.pop("repetition_penalty", default) or 1.0)
        processors = LogitsProcessorList([Lockstep(self.ensemble, by_member, penalty, mask)])
        return super()._model_generate(
            context, max_length, stop, logits_processor=processors, repetition_penalty=1.0,
            **options,
        )  # fmt: skip


def _encode(member: Member, text: str) -> list[int]:
    """Ids of a chat that the member's template wrote; BOS is not put before a BOS."""
    bos = member.tokenizer.bos_token
    begins = bool(bos) and text.startswith(bos)
    return member.tokenizer.encode(text, **({"add_special_tokens": False} if begins else {}))
