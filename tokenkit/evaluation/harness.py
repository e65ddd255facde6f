"""lm-eval's Hugging Face model without two traps, in which changing the tokenizer changes scores.

*Rolling tasks.* The harness puts a token before every document, also where the tokenizer has put
its BOS there already, and then scores that BOS. Here a document follows one context token and is
read in windows of bytes, exactly as in :mod:`tokenkit.evaluation.bits_per_byte`.

*A token across the join.* Where one token spans the end of the context and all of the
continuation, the harness has no token left to score, and stops. Here the continuation's share is
what the bytes say: log p(context + continuation) − log p(context), of the two whole encodings.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cached_property
from typing import Any

import numpy as np
import torch
from lm_eval.models.huggingface import HFLM

from tokenkit.errors import DataError
from tokenkit.evaluation.bits_per_byte import Window, encode_documents, windows_of
from tokenkit.log import logger
from tokenkit.tokenizers import ByteifiedTokenizer
from tokenkit.tokenizers.roles import context_id

# A CPU does not run out of memory before it is slow, so there is nothing to try out.
AUTO_ON_CPU = 8

# The strings of a request (None: of no interest to caches), context ids, continuation ids.
TokenRequest = tuple[Any, list[int], list[int]]
Answer = tuple[float, bool]


def shared_prefix(first: list[int], second: list[int]) -> int:
    """Number of ids at the beginning of both."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(first), len(second)))


@contextmanager
def only_errors(name: str) -> Iterator[None]:
    """Within, a logger of another library says only what went wrong."""
    other = logging.getLogger(name)
    level = other.level
    other.setLevel(logging.ERROR)
    try:
        yield
    finally:
        other.setLevel(level)


class ByteFairLM(HFLM):
    """What all models of tokenkit for the harness share.

    Args:
        pretrained: the model, or what stands for it: ``config`` and ``device`` are read.
        tokenizer: as ``transformers`` loads it.
        byteified: gives the tokenizer as bytes, for rolling tasks; None if it cannot be seen so.
        max_bytes: bytes a window of rolling tasks.
        options: of lm-eval's own model.
    """

    logits_cache: bool

    def __init__(
        self,
        pretrained: Any,
        tokenizer: Any,
        byteified: Callable[[], ByteifiedTokenizer | None],
        *,
        max_bytes: int = 2048,
        **options: Any,
    ) -> None:
        with only_errors("lm_eval.models.huggingface"):  # it warns of models that are objects
            super().__init__(pretrained=pretrained, tokenizer=tokenizer, **options)
        self._byteified, self.max_bytes = byteified, max_bytes

    @cached_property
    def tok(self) -> ByteifiedTokenizer | None:
        """The tokenizer as bytes."""
        return self._byteified()

    @property
    def longest(self) -> int:
        """Tokens of a request that can be scored, the last one included."""
        return self.max_length + 1

    def _detect_batch_size(self, requests: Any = None, pos: int = 0) -> int:
        if self.device.type == "cpu":
            return min(AUTO_ON_CPU, self.max_batch_size)
        return super()._detect_batch_size(requests, pos)

    # Rolling ----------------------------------------------------------------------------------

    def loglikelihood_rolling(self, requests: list, disable_tqdm: bool = False) -> list[float]:
        """Log-likelihood of whole documents; see the module."""
        documents = [self.windows(request.args[0]) for request in requests]
        flat: list[TokenRequest] = [
            (None, window.ids[: window.first].tolist(), window.ids[window.first :].tolist())
            for windows in documents
            for window in windows
        ]
        answers = iter(self._score_documents(flat, disable_tqdm) if flat else [])
        totals = []
        for request, windows in zip(requests, documents, strict=True):
            totals.append(float(sum(next(answers)[0] for _ in windows)))
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, totals[-1])
        return totals

    def windows(self, text: str) -> list[Window]:
        """A document in windows; shorter ones, where the model cannot read so many tokens."""
        ids, ends, context = self._pieces(text)
        max_bytes = self.max_bytes
        while True:
            found = windows_of(ids, ends, context, max_bytes)
            if max_bytes == 1 or all(len(window.ids) <= self.longest for window in found):
                return found
            max_bytes //= 2

    def _pieces(self, text: str) -> tuple[np.ndarray, np.ndarray, int]:
        """Ids of a text, bytes up to the end of each, and the id of the token before it."""
        if self.tok is not None:
            (row,) = encode_documents(self.tok, [text])
            return row.ids, row.end, context_id(self.tok)
        ids = np.array(self.tokenizer(text, add_special_tokens=False)["input_ids"], int)
        # Where tokens end is known of bytes only; of others, windows are cut as if alike in size.
        size = len(text.encode("utf-8"))
        return ids, np.arange(1, len(ids) + 1) * size // max(len(ids), 1), self.prefix_token_id

    def _score_documents(self, requests: list[TokenRequest], disable_tqdm: bool) -> list[Answer]:
        with self._each_alone():
            return self._score(requests, disable_tqdm)

    @contextmanager
    def _each_alone(self) -> Iterator[None]:
        """Within, requests of the same tokens share no forward pass.

        The harness lets them, and then takes the wrong places where the cut between context and
        continuation is not the same.
        """
        kept = self.logits_cache
        self.logits_cache = False
        try:
            yield
        finally:
            self.logits_cache = kept

    # A token across the join --------------------------------------------------------------------

    def _loglikelihood_tokens(
        self,
        requests: list[TokenRequest],
        disable_tqdm: bool = False,
        override_bs: int | None = None,
    ) -> list[Answer]:
        """As lm-eval's, and without a token in the continuation or the context, too.

        Raises:
            DataError: if a continuation is longer than what the model reads.
        """
        requests = [(text, c or [self.prefix_token_id], ids) for text, c, ids in requests]
        # All are scored in one call: ranks that agree on a batch size must call alike.
        parts = [[r] if r[2] else self._two_encodings(r) for r in requests]
        scored = [part for two in parts for part in two if part[2]]
        for _, _, ids in scored:
            if len(ids) >= self.longest:  # one token before it is read, too
                raise DataError(
                    f"a continuation of {len(ids)} tokens cannot be scored: the model reads "
                    f"{self.max_length} tokens, so at most {self.longest - 1} of one"
                )
        across = any(not r[2] for r in requests)
        with self._each_alone() if across else nullcontext():
            found = iter(self._score(scored, disable_tqdm, override_bs) if scored else [])
        answers = []
        for request, (whole, *context) in zip(requests, parts, strict=True):
            logprob, greedy = next(found) if whole[2] else (0.0, True)
            for part in context:
                logprob -= next(found)[0] if part[2] else 0.0
            answers.append((logprob, greedy))
            if context and request[0] is not None:
                self.cache_hook.add_partial("loglikelihood", request[0], answers[-1])
        return answers

    def _two_encodings(self, request: TokenRequest) -> list[TokenRequest]:
        """Context with continuation, and context alone, each behind what both begin with."""
        (given, continuation), *_ = request
        context = given.rstrip()  # as the harness: white space at its end is the continuation's
        whole = self.tok_encode(given + continuation) if given else []
        alone = self.tok_encode(context) if given else []
        before = [] if alone[:1] == [self.prefix_token_id] else [self.prefix_token_id]
        common = shared_prefix(whole, alone)
        before += whole[:common]
        return [(None, before, whole[common:]), (None, before, alone[common:])]

    # Tokens -------------------------------------------------------------------------------------

    def _score(
        self,
        requests: list[TokenRequest],
        disable_tqdm: bool = False,
        override_bs: int | None = None,
    ) -> list[Answer]:
        """Log-prob of each continuation's tokens, and whether each was the likeliest."""
        return super()._loglikelihood_tokens(requests, disable_tqdm, override_bs)


def log_of_fallback(name: str, error: Exception) -> None:
    """Says that a tokenizer cannot be seen as bytes."""
    logger.warning(
        f"the tokenizer of '{name}' cannot be seen as bytes ({error}): rolling tasks read it as "
        "transformers does"
    )


def all_gather_flat(tensor: torch.Tensor) -> torch.Tensor:
    """Tensors of all ranks, one after another; a number becomes one element."""
    import torch.distributed as dist

    flat = tensor.reshape(1) if tensor.dim() == 0 else tensor
    parts = [torch.empty_like(flat) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, flat.contiguous())
    return torch.cat(parts)
