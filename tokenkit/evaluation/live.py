"""A model in training, or its teacher, behind lm-eval's interface: all ranks answer together.

Every rank is asked everything and the harness sees one process; batches are dealt to data-parallel
ranks here, as :func:`tokenkit.evaluation.bits_per_byte.bits_per_byte` deals windows, so results are
those of one process. A sharded model needs every rank in every forward pass: idle ones repeat.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType, SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from lm_eval.models.utils_hf import stop_sequences_criteria
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from transformers import AutoTokenizer
from transformers.generation.logits_process import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from tokenkit.batch import Sequences
from tokenkit.errors import DataError
from tokenkit.evaluation.bits_per_byte import Window, batches_of
from tokenkit.evaluation.harness import Answer, ByteFairLM, TokenRequest
from tokenkit.models.outputs import Outputs
from tokenkit.parallelisms import Parallel
from tokenkit.tokenizers import ByteifiedTokenizer
from tokenkit.tokenizers.families import EOT

# Settings of a generation config that choose other tokens, and values by which they do not.
ONLY_EXPORTED = {
    **dict.fromkeys(("no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "min_length"), 0),
    **dict.fromkeys(("num_beams", "num_beam_groups", "encoder_repetition_penalty"), 1),
    **dict.fromkeys(("suppress_tokens", "begin_suppress_tokens", "bad_words_ids"), []),
    **dict.fromkeys(("min_new_tokens", "forced_bos_token_id", "forced_eos_token_id")),
    **dict.fromkeys(("sequence_bias", "exponential_decay_length_penalty", "guidance_scale")),
}
ONLY_EXPORTED_DRAWS = {
    **dict.fromkeys(("epsilon_cutoff", "eta_cutoff", "min_p"), 0.0),
    **dict.fromkeys(("top_h",)),
    "typical_p": 1.0,
}
Read = Callable[[Sequences, Collection[str]], Outputs]


class LiveLM(ByteFairLM):
    """What reads batches, as a model of the harness. Generation keeps no cache.

    Args:
        read: a student, or a teacher's ``read``.
        tok: its tokenizer.
        hf_config: says how many tokens the model can read.
        generation: values of its ``generation_config.json``: defaults of what tasks say.
        options: ``batch_size``, ``max_bytes``.
    """

    def __init__(
        self,
        read: Read,
        tok: ByteifiedTokenizer,
        hf_config: Any,
        parallel: Parallel,
        generation: Mapping[str, Any] = MappingProxyType({}),
        **options: Any,
    ) -> None:
        with tempfile.TemporaryDirectory(prefix="tokenkit-") as folder:
            tok.save(folder)  # so that prompts are those of the exported model
            hf_tokenizer = AutoTokenizer.from_pretrained(folder)
        stands_in = SimpleNamespace(device=parallel.device, config=hf_config, name_or_path="")
        super().__init__(stands_in, hf_tokenizer, lambda: tok, backend="causal", **options)
        self.read, self.parallel, self.generation = read, parallel, generation

    @property
    def longest(self) -> int:
        return self.max_length

    def loglikelihood(self, requests: list, disable_tqdm: bool = True) -> list[Answer]:
        return super().loglikelihood(requests, disable_tqdm=True)

    def generate_until(self, requests: list, disable_tqdm: bool = True) -> list[str]:
        return super().generate_until(requests, disable_tqdm=True)

    @torch.no_grad()
    def _score(
        self,
        requests: list[TokenRequest],
        disable_tqdm: bool = False,
        override_bs: int | None = None,
    ) -> list[Answer]:
        windows = []
        for _, context, continuation in requests:
            ids = np.array([*context, *continuation][-self.longest :])
            windows.append(Window(ids, len(ids) - len(continuation)))
        # As batches_of sorts them, so that rows are found again.
        order = sorted(range(len(windows)), key=lambda i: -len(windows[i].ids))
        batches = batches_of([windows[i] for i in order], self.batch_size)
        found = torch.zeros(len(order), 2, dtype=torch.float64)
        rank, ranks = self.parallel.dp_rank, self.parallel.dp_size
        for number in range(-(-len(batches) // ranks)):
            mine = number * ranks + rank
            seq = batches[min(mine, len(batches) - 1)].to(self.device)
            outputs = self.read(seq, ("label",))
            if mine < len(batches):
                first = mine * self.batch_size
                rows = found[first : first + len(seq.ids)]
                logprob = torch.where(seq.counted, outputs.token_logprob, 0.0)
                rows[:, 0] = logprob.double().sum(1).cpu()
                rows[:, 1] = (outputs.correct | ~seq.counted).all(1).cpu()
        answers: list[Answer] = [(0.0, False)] * len(order)
        for i, (logprob, greedy) in zip(order, self._of_all_ranks(found).tolist(), strict=True):
            answers[i] = logprob, bool(greedy)
        return answers

    def _of_all_ranks(self, shares: Tensor) -> Tensor:
        """The sum of what the data-parallel ranks have; zeros stand for what others found."""
        if self.parallel.shared_group is None:
            return shares
        total = shares.to(self.device)
        dist.all_reduce(total, group=self.parallel.shared_group)
        return total.cpu()

    # Generation ---------------------------------------------------------------------------------

    @torch.no_grad()
    def _model_generate(
        self, context: Tensor, max_length: int, stop: list[str], **options: Any
    ) -> Tensor:
        """Context ``[B, T]`` (padded on the left) with up to ``max_length - T`` more tokens."""
        mask = options.pop("attention_mask").bool()
        penalty, pick = _penalty(options, self.generation), _picker(options, self.generation)
        size, room = len(context), max_length - context.shape[1]
        made = torch.zeros(size, room, dtype=torch.int64)
        ranks = self.parallel.dp_size
        mine = list(range(self.parallel.dp_rank, size, ranks))
        # An idle rank repeats a row, and what it finds is not counted.
        rows = [context[i][mask[i]].tolist() for i in mine or [0]]
        begin = [len(row) for row in rows]
        ends = self._ends()
        stops = [stop_sequences_criteria(self.tokenizer, stop, 0, 1) for _ in rows]
        done = [False] * len(rows)
        for step in range(room):
            logits = self._next_logits(rows).float().cpu()
            for row, at, own in zip(rows, range(len(rows)), logits, strict=True):
                if done[at]:
                    row.append(self.tok.pad_id)
                    continue
                chosen_from = penalty(torch.tensor([row]), own[None])
                row.append(pick(chosen_from, seed=(mine or [0])[at] * room + step))
                new = torch.tensor([row[begin[at] :]])
                done[at] = row[-1] in ends or any(bool(c(new, None)) for c in stops[at])
            left = torch.tensor([float(not all(done))])
            if not self._of_all_ranks(left).item():
                break
        for i, row, first in zip(mine, rows, begin, strict=False):
            made[i, : len(row) - first] = torch.tensor(row[first:])
        return torch.cat([context, self._of_all_ranks(made).to(context.device)], 1)

    def _ends(self) -> set[int]:
        """Tokens that generation ends at, as in the exported model's generation config."""
        turn = self.tok.marker_ids[EOT]
        return {self.tok.eos_id, *([] if turn is None else [int(turn[0])])}

    def _next_logits(self, rows: list[list[int]]) -> Tensor:
        """fp32 ``[B, V]`` of what follows each row."""
        windows = [Window(np.array(row[-self.max_length :]), 1) for row in rows]
        length = max(len(window.ids) for window in windows)
        ids = torch.full((len(rows), length), self.tok.pad_id)
        for row, window in zip(ids, windows, strict=True):
            row[: len(window.ids)] = torch.from_numpy(window.ids)
        last = torch.tensor([len(window.ids) - 1 for window in windows])
        mask = torch.arange(length) <= last[:, None]
        outputs = self.read(Sequences.of(ids, mask).to(self.device), ("hidden",))
        hidden = outputs.hidden[torch.arange(len(rows)), last.to(self.device)]
        if isinstance(outputs.vocabulary, FSDPModule):
            outputs.vocabulary.unshard()  # FSDP lets go of it after the model's pass
        return outputs.vocabulary.block_logits(hidden)


def _penalty(options: dict[str, Any], saved: Mapping[str, Any]) -> LogitsProcessorList:
    """The repetition penalty of a task (taken out of its options), else of the model."""
    value = float(options.pop("repetition_penalty", saved.get("repetition_penalty")) or 1.0)
    return LogitsProcessorList([RepetitionPenaltyLogitsProcessor(value)] if value != 1.0 else [])


def _picker(options: dict[str, Any], saved: Mapping[str, Any]) -> Callable[..., int]:
    """How the next token is chosen from logits ``[1, V]``: the likeliest, or drawn by a seed.

    Args:
        saved: of the model's ``generation_config.json``.

    Raises:
        DataError: for what only an exported model can do.
    """
    refused = ONLY_EXPORTED | (ONLY_EXPORTED_DRAWS if options.get("do_sample") else {})
    for name, nothing in refused.items():
        if saved.get(name) not in (None, nothing):
            raise DataError(
                f"eval.tasks: {name} = {saved[name]} of the model's generation_config.json is not "
                "supported in training; evaluate the exported model with tokenkit eval"
            )
    known = {"do_sample", "temperature", "top_k", "top_p"}
    options = {name: saved[name] for name in ("top_k", "top_p") if name in saved} | options
    if unknown := sorted(set(options) - known):
        raise DataError(
            f"eval.tasks: generation_kwargs.{unknown[0]} of a task is not supported in training; "
            "evaluate the exported model with tokenkit eval"
        )
    if not options.get("do_sample"):
        return lambda logits, seed: int(logits.argmax())
    top_k = options.get("top_k")
    top_k = 50 if top_k is None else int(top_k)  # as transformers by default; 0 cuts nothing
    warpers = LogitsProcessorList(
        [
            TemperatureLogitsWarper(float(options.get("temperature") or 1.0)),
            *([TopKLogitsWarper(top_k)] if top_k else []),
            TopPLogitsWarper(float(options.get("top_p") or 1.0)),
        ]
    )

    def draw(logits: Tensor, seed: int) -> int:
        generator = torch.Generator().manual_seed(seed)
        return int(torch.multinomial(warpers(None, logits).softmax(-1), 1, generator=generator))

    return draw
