"""Approximate Likelihood Matching (ALM, arXiv 2503.20083): equal bytes, equal probability.

Teacher and student cut a text into different tokens, but aligned chunks cover the same bytes.
ALM asks the student to give each chunk the probability that the teacher gives it. A chunk that
holds the first token of a row, on either side, has no such probability and does not count.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from tokenkit.config import Config
from tokenkit.losses.alm_diffs import DIFFERENCES
from tokenkit.losses.base import Signals
from tokenkit.losses.registry import LOSSES
from tokenkit.ops.segments import first_run_end, segment_sum

if TYPE_CHECKING:
    from tokenkit.batch import Batch


class Chunks(NamedTuple):
    """One side's view of the chunks, ``[B, C]`` each."""

    logprob: Tensor  # Σ log p(token) over a chunk's active tokens
    boundary: Tensor | None  # log-prob that a boundary follows the chunk


class Grouping(NamedTuple):
    """The teacher decides which chunks count and which are merged; ``[B, C]`` each."""

    on: Tensor  # bool, the chunk (or group of chunks) counts
    tokens: Tensor  # active teacher tokens in it, 0 where off
    parts: Tensor  # [] number of chunks that count, before merging
    group: Tensor | None  # chunk → group id (−1: none), None without merging
    end: Tensor | None  # group → its last chunk


class ALM:
    """Σ difference(chunk) · numerator / Σ denominator, over aligned chunks."""

    needs_teacher = True

    def __init__(self, config: Config, student_tok=None, teacher_tok=None) -> None:
        alm = config.alm
        self.difference = DIFFERENCES[alm.diff_fn]
        self.modes = set(filter(None, alm.mode.split("+")))
        self.temperature, self.alpha = alm.temperature, alm.renyi_alpha
        self.threshold = alm.merge_threshold
        self.numerator, self.denominator = alm.numerator, alm.denominator

    @property
    def needs(self) -> frozenset[str]:
        boundary = self.modes & {"merge_by_space_prob", "append_space"}
        return frozenset({"label", "boundary"} if boundary else {"label"})

    def count(self, batch: Batch, teacher: Signals | None) -> Tensor:
        grouping = self._grouping(batch, teacher)
        if self.denominator == "chunk_count":
            return grouping.on.sum(dtype=torch.float32)
        return grouping.tokens.sum()

    def __call__(
        self,
        batch: Batch,
        student: Signals,
        teacher: Signals | None,
        count: Tensor,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        grouping = self._grouping(batch, teacher)
        y, y_boundary = self._logprob(self._chunks(batch, teacher, "teacher"), grouping)
        x, x_boundary = self._logprob(self._chunks(batch, student, "student"), grouping)
        on = grouping.on
        # Off chunks get harmless values before the difference, so that no NaN reaches a gradient.
        y, x = torch.where(on, y, -1.0), torch.where(on, x, -1.0)
        difference = self.difference(y, x, self.temperature, self.alpha)
        terms = torch.where(on, difference * self._numerator(grouping.tokens), 0.0)
        mass = {"teacher": y_boundary, "student": x_boundary} if y_boundary is not None else {}
        metrics = self._metrics(grouping, y, x, mass, count)
        return terms.sum() / count, metrics

    def _numerator(self, tokens: Tensor) -> Tensor | float:
        if self.numerator == "chunk_count":
            return 1.0
        return tokens if self.numerator == "token_count" else torch.log1p(tokens)

    def _active(self, batch: Batch, side: str) -> Tensor:
        """Chunk ids ``[B, T]`` of tokens under the loss mask, −1 elsewhere."""
        ids = getattr(batch, f"{side}_chunks")[self.chunk_kind].long()
        return torch.where(getattr(batch, f"{side}_loss_mask"), ids, -1)

    def _chunks(self, batch: Batch, scores: Signals, side: str) -> Chunks:
        ids = self._active(batch, side)
        size = self._size(batch)
        logprob = scores.label_logprob[:, :-1].clamp(max=0.0)
        total = segment_sum(logprob, ids[:, 1:], size)
        if scores.boundary_logprob is None:
            return Chunks(total, None)
        end = first_run_end(ids, size)
        return Chunks(total, scores.boundary_logprob.clamp(max=0.0).gather(1, end))

    @staticmethod
    def _size(batch: Batch) -> int:
        """Room for chunks per row: each that counts has a teacher token of its own."""
        return batch.teacher_ids.shape[1]

    def _unscored(self, batch: Batch, size: int) -> Tensor:
        """Chunks ``[B, C]`` with a row's first token on either side: nothing predicts that token.

        With BOS on one side only, the other side would lack what this one has a score for.
        """
        chunk = torch.arange(size, device=batch.teacher_ids.device)
        teacher, student = (self._active(batch, side)[:, :1] for side in ("teacher", "student"))
        return (teacher == chunk) | (student == chunk)

    def _grouping(self, batch: Batch, teacher: Signals) -> Grouping:
        ids, size = self._active(batch, "teacher"), self._size(batch)
        tokens = segment_sum(torch.ones_like(ids[:, 1:], dtype=torch.float32), ids[:, 1:], size)
        on = (tokens > 0) & ~self._unscored(batch, size)
        tokens = torch.where(on, tokens, 0.0)
        parts = on.sum(dtype=torch.float32)
        if "merge_by_space_prob" not in self.modes:
            return Grouping(on, tokens, parts, None, None)
        boundary = teacher.boundary_logprob.gather(1, first_run_end(ids, size))
        # A group is contiguous text, so it ends before text that does not count, too.
        closed = ((boundary.exp() > self.threshold) | ~on).long()
        # A chunk's group is the number of closed chunks strictly before it.
        group = torch.where(on, closed.cumsum(1) - closed, -1)
        merged = segment_sum(tokens, group, size)
        return Grouping(merged > 0, merged, parts, group, first_run_end(group, size))

    def _logprob(self, chunks: Chunks, grouping: Grouping) -> tuple[Tensor, Tensor | None]:
        """Log-prob of each chunk or group, with the boundary after it if asked for; the latter."""
        logprob, boundary = chunks
        if grouping.group is not None:
            logprob = segment_sum(logprob, grouping.group, logprob.shape[1])
            boundary = boundary.gather(1, grouping.end)
        if "append_space" in self.modes:
            logprob = logprob + boundary
        return logprob, boundary

    def _metrics(
        self, grouping: Grouping, y: Tensor, x: Tensor, mass: dict[str, Tensor], count: Tensor
    ) -> dict[str, Tensor]:
        """Means per unit of the denominator: per chunk after merging, or per teacher token."""
        on = grouping.on
        sums = {
            "teacher_tokens": grouping.tokens.sum(),
            "chunks_before_merging": grouping.parts,
            "teacher_logprob": torch.where(on, y, 0.0).sum(),
            "student_logprob": torch.where(on, x, 0.0).sum().detach(),
        }
        for side, boundary in mass.items():
            sums[f"{side}_boundary_mass"] = torch.where(on, boundary.detach().exp(), 0.0).sum()
        return {f"{self.name}/{name}": value / count for name, value in sums.items()}


@LOSSES.register("alm_unconstrained")
class UnconstrainedALM(ALM):
    """ALM on the finest aligned chunks."""

    name, chunk_kind = "alm_unconstrained", "unconstrained"


@LOSSES.register("alm_space")
class SpaceALM(ALM):
    """ALM on chunks that end before a space."""

    name, chunk_kind = "alm_space", "space"


@LOSSES.register("alm_unbiased")
class UnbiasedALM(ALM):
    """ALM on chunks that end where both tokenizers are unbiased (precomputed pair biases)."""

    name, chunk_kind = "alm_unbiased", "unbiased"
