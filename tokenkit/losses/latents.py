"""Latents (arXiv 2503.20083, §3.4): equal hidden states where aligned chunks end.

With t and s the teacher's and student's states at the ends of the chunks, the loss of one layer
is the mean of (s − t)² / n over chunks and channels, n the mean of t² over chunks and channels
(``l2``) or over chunks alone (``l2_channelwise``); ``l1`` and ``l1_channelwise`` take absolute
values. Layers are averaged, kinds of states added.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from tokenkit.config import Config
from tokenkit.errors import ModelError
from tokenkit.losses.base import Signals
from tokenkit.losses.projection import linear
from tokenkit.losses.registry import LOSSES
from tokenkit.ops.segments import chunk_ends

if TYPE_CHECKING:
    from tokenkit.batch import Batch

NEEDED = {"last_hidden_state": "hidden", "all_hidden_states": "hidden_states", "qkv": "qkv"}
CHUNKS = {"naive": "unconstrained", "space": "space"}


@LOSSES.register("alm_latents")
class Latents(nn.Module):
    """Differences of states, measured in units of the teacher's."""

    name = "alm_latents"
    needs_teacher = True

    def __init__(self, config: Config, student_tok=None, teacher_tok=None) -> None:
        super().__init__()
        latents = config.latents
        self.kinds = latents.states.split("+")
        self.needs = frozenset(NEEDED[kind] for kind in self.kinds)
        self.chunk_kind = CHUNKS[latents.chunks]
        self.power = 2 if latents.normalization.startswith("l2") else 1
        self.channelwise = latents.normalization.endswith("channelwise")
        self.project = latents.project
        self.projection: nn.Linear | None = None

    def add_parameters(self, student_width: int, teacher_width: int) -> None:
        """Make the projection from the student's to the teacher's width, if asked for."""
        if self.project:
            self.projection = nn.Linear(student_width, teacher_width)

    def count(self, batch: Batch, teacher: Signals) -> Tensor:
        """``[1 + …]``: the number of chunks, and for every layer the sum of the teacher's norms."""
        _, end, on = self._ends(batch)
        sums = [self._at(state, end, on).abs().pow(self.power) for state in self._all(teacher)]
        sums = [s.sum((0, 1)) if self.channelwise else s.sum().view(1) for s in sums]
        return torch.cat([on.sum(dtype=torch.float32).view(1), *sums])

    def forward(
        self, batch: Batch, student: Signals, teacher: Signals, count: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        student_end, teacher_end, on = self._ends(batch)
        chunks, norms = count[0].clamp(min=1.0), count[1:]
        total = torch.zeros((), device=on.device)
        for kind in self.kinds:
            ours, theirs = self._states(student, kind), self._states(teacher, kind)
            if len(ours) != len(theirs):
                raise ModelError(
                    f"loss alm_latents: the student has {len(ours)} layers of {kind}, the teacher "
                    f"{len(theirs)}; use latents.states = 'last_hidden_state'"
                )
            for mine, state in zip(ours, theirs, strict=True):
                s = self._at(self._project(mine, state, kind), student_end, on)
                t = self._at(state, teacher_end, on)
                width = t.shape[-1]
                part, norms = norms.split([n := width if self.channelwise else 1, len(norms) - n])
                unit = part / (chunks if self.channelwise else chunks * width) + 1e-8
                difference = ((s - t).abs().pow(self.power) / unit).sum()
                total = total + difference / (chunks * width * len(ours))
        return total, {}

    def _project(self, mine: Tensor, theirs: Tensor, kind: str) -> Tensor:
        projected = mine
        if self.projection is not None and kind != "qkv":
            projected = linear(self.projection, mine)
        if projected.shape[-1] != theirs.shape[-1]:
            raise ModelError(
                f"loss alm_latents: {kind} of the student are {projected.shape[-1]} wide, the "
                f"teacher's {theirs.shape[-1]}; set latents.project = true (hidden states only)"
            )
        return projected

    def _all(self, signals: Signals) -> list[Tensor]:
        return [state for kind in self.kinds for state in self._states(signals, kind)]

    @staticmethod
    def _states(signals: Signals, kind: str) -> tuple[Tensor, ...]:
        if kind == "last_hidden_state":
            return (signals.hidden,)
        return signals.hidden_states if kind == "all_hidden_states" else signals.qkv

    def _ends(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Ends of the chunks ``[B, C]`` on both sides, and which chunks both sides have."""
        size = batch.teacher_ids.shape[1]
        student, in_student = chunk_ends(batch.student_chunks[self.chunk_kind], size)
        teacher, in_teacher = chunk_ends(batch.teacher_chunks[self.chunk_kind], size)
        return student, teacher, in_student & in_teacher

    @staticmethod
    def _at(state: Tensor, end: Tensor, on: Tensor) -> Tensor:
        """States ``[B, C, D]`` at the chunks' ends, 0 where there is no chunk; fp32."""
        index = end[..., None].expand(-1, -1, state.shape[-1])
        return state.gather(1, index).float() * on[..., None]
