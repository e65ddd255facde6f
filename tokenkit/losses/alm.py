"""Approximate Likelihood Matching (ALM, arXiv 2503.20083): equal bytes, equal probability.

Teacher and student cut a text into different tokens, but aligned chunks cover the same bytes.
ALM asks the student to give each chunk the probability that the teacher gives it. A chunk that
holds a token without a probability (the first of its document), on either side, does not count.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from tokenkit.batch import Sequences
from tokenkit.config import Config, key, to_toml
from tokenkit.losses.alm_diffs import DIFFERENCES
from tokenkit.losses.base import Loss
from tokenkit.losses.registry import LOSSES
from tokenkit.models.outputs import Outputs
from tokenkit.ops.segments import first_run_end, segment_sum


@dataclass
class AlmSettings:
    """Approximate likelihood matching, the losses alm_*."""

    diff_fn: str = key(
        "binary_ce", "difference of chunk log-probabilities", choices=tuple(DIFFERENCES)
    )
    mode: str = key(
        "merge_by_space_prob+append_space",
        "what is done beside comparing chunks",
        joined=("merge_by_space_prob", "append_space", "eos_as_space"),
    )
    temperature: float = key(100.0, "divides chunk log-probabilities", above=0)
    merge_threshold: float = key(
        0.1, "teacher's boundary probability that closes a chunk", minimum=0, maximum=1
    )
    numerator: str = key(
        "chunk_count",
        "weight of a chunk",
        choices=("chunk_count", "token_count", "log1p_token_count"),
    )
    denominator: str = key(
        "chunk_count", "what the sum is divided by", choices=("chunk_count", "token_count")
    )
    renyi_alpha: float = key(2.0, "order of the Renyi divergence (diff_fn renyi)", above=0)
    space_mask_mode: str = key(
        "space+tab+newline+special",
        "tokens that begin with these are boundaries",
        joined=("space", "tab", "newline", "special"),
    )
    pair_bias: str = key(
        "", "folder or file of tokenizer pair statistics (loss alm_unbiased)", path=True
    )
    bias_threshold: float = key(
        0.1, "alm_unbiased drops chunks with a higher bias", minimum=0, maximum=1
    )


class Match(NamedTuple):
    """The teacher decides which chunks count and which are merged; ``[B, C]`` unless said."""

    student: Tensor  # [B, T_s] chunk ids of the student's tokens under the loss mask
    on: Tensor  # bool, the chunk (or group of chunks) counts
    tokens: Tensor  # active teacher tokens in it, 0 where off
    parts: Tensor  # [] number of chunks that count, before merging
    group: Tensor | None  # chunk → group id (−1: none), None without merging
    end: Tensor | None  # group → its last chunk
    logprob: Tensor  # of the chunk (or group) by the teacher
    boundary: Tensor | None  # log-prob by the teacher that a boundary follows it


class ALM(Loss):
    """Σ difference(chunk) · numerator / Σ denominator, over aligned chunks."""

    section, Settings = "alm", AlmSettings
    needs = frozenset({"label", "boundary"})

    def __init__(self, config: Config, student_tok=None, teacher_tok=None) -> None:
        super().__init__(config)
        alm = config.alm
        self.difference = DIFFERENCES[alm.diff_fn]
        self.modes = set(filter(None, alm.mode.split("+")))
        self.temperature, self.alpha = alm.temperature, alm.renyi_alpha
        self.threshold = alm.merge_threshold
        self.numerator, self.denominator = alm.numerator, alm.denominator
        boundary = self.modes & {"merge_by_space_prob", "append_space"}
        self.needs = frozenset({"label", "boundary"} if boundary else {"label"})

    def match(self, student: Sequences, teacher: Outputs) -> Match:
        mine, theirs = student.active(self.chunk_kind), teacher.seq.active(self.chunk_kind)
        size = theirs.shape[1]  # each chunk that counts has a teacher token of its own
        tokens = segment_sum(teacher.seq.scored.float(), theirs, size)
        unscored = segment_sum((~teacher.seq.scored).float(), theirs, size)
        unscored = unscored + segment_sum((~student.scored).float(), mine, size)
        on = (tokens > 0) & (unscored == 0)
        tokens = torch.where(on, tokens, 0.0)
        parts, group, end = on.sum(dtype=torch.float32), None, None
        if "merge_by_space_prob" in self.modes:
            boundary = teacher.boundary_logprob.gather(1, first_run_end(theirs, size))
            # A group is contiguous text, so it ends before text that does not count, too.
            closed = ((boundary.exp() > self.threshold) | ~on).long()
            # A chunk's group is the number of closed chunks strictly before it.
            group = torch.where(on, closed.cumsum(1) - closed, -1)
            tokens = segment_sum(tokens, group, size)
            on, end = tokens > 0, first_run_end(group, size)
        logprob, boundary = self._logprob(teacher, theirs, group, end, size)
        return Match(mine, on, tokens, parts, group, end, logprob, boundary)

    def count(self, match: Match) -> Tensor:
        if self.denominator == "chunk_count":
            return match.on.sum(dtype=torch.float32)
        return match.tokens.sum()

    def forward(
        self, match: Match, student: Outputs, teacher: Outputs | None, count: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        on, size = match.on, match.on.shape[1]
        x, x_boundary = self._logprob(student, match.student, match.group, match.end, size)
        # Off chunks get harmless values before the difference, so that no NaN reaches a gradient.
        y, x = torch.where(on, match.logprob, -1.0), torch.where(on, x, -1.0)
        difference = self.difference(y, x, self.temperature, self.alpha)
        terms = torch.where(on, difference * self._numerator(match.tokens), 0.0)
        mass = {}
        if x_boundary is not None:
            mass = {"teacher": match.boundary, "student": x_boundary}
        return terms.sum() / count, self._metrics(match, y, x, mass, count)

    def _numerator(self, tokens: Tensor) -> Tensor | float:
        if self.numerator == "chunk_count":
            return 1.0
        return tokens if self.numerator == "token_count" else torch.log1p(tokens)

    def _logprob(
        self, side: Outputs, ids: Tensor, group: Tensor | None, end: Tensor | None, size: int
    ) -> tuple[Tensor, Tensor | None]:
        """Log-prob of each chunk or group, with the boundary after it if asked for; the latter."""
        logprob, boundary = segment_sum(side.token_logprob.clamp(max=0.0), ids, size), None
        if side.boundary_logprob is not None:
            boundary = side.boundary_logprob.clamp(max=0.0).gather(1, first_run_end(ids, size))
        if group is not None:
            logprob, boundary = segment_sum(logprob, group, size), boundary.gather(1, end)
        if "append_space" in self.modes:
            logprob = logprob + boundary
        return logprob, boundary

    def _metrics(
        self, match: Match, y: Tensor, x: Tensor, mass: dict[str, Tensor], count: Tensor
    ) -> dict[str, Tensor]:
        """Means per unit of the denominator: per chunk after merging, or per teacher token."""
        on = match.on
        sums = {
            "teacher_tokens": match.tokens.sum(),
            "chunks_before_merging": match.parts,
            "teacher_logprob": torch.where(on, y, 0.0).sum(),
            "student_logprob": torch.where(on, x, 0.0).sum().detach(),
        }
        for side, boundary in mass.items():
            sums[f"{side}_boundary_mass"] = torch.where(on, boundary.detach().exp(), 0.0).sum()
        return {f"{self.name}/{name}": value / count for name, value in sums.items()}


def settings_problems(config: Config) -> Iterator[str]:
    """What is wrong in ``[alm]``, whichever losses read it."""
    if config.alm.diff_fn == "renyi" and config.alm.renyi_alpha == 1:
        yield "alm.renyi_alpha = 1.0: the Renyi divergence needs an order other than 1"
    if not config.alm.space_mask_mode:
        yield "alm.space_mask_mode is empty: name what begins a word, such as space+tab"
    found = config.alm.pair_bias
    if found and not Path(found).expanduser().exists():
        yield f"alm.pair_bias = {to_toml(found)}: no such file or folder of pair statistics"


@LOSSES.register("alm_unconstrained")
class UnconstrainedALM(ALM):
    """ALM on the finest aligned chunks."""

    chunk_kind = "unconstrained"


@LOSSES.register("alm_space")
class SpaceALM(ALM):
    """ALM on chunks that end before a space."""

    chunk_kind = "space"


@LOSSES.register("alm_unbiased")
class UnbiasedALM(ALM):
    """ALM on chunks that end where both tokenizers are unbiased (precomputed pair biases)."""

    chunk_kind = "unbiased"
    fixed_tokenizer = True

    @classmethod
    def problems(cls, config: Config) -> Iterator[str]:
        if not config.alm.pair_bias:
            yield (
                'alm.pair_bias is empty, but loss "alm_unbiased" reads the pair statistics of the '
                "two tokenizers from there"
            )
