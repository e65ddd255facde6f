"""Latents (arXiv 2503.20083, §3.4): equal hidden states where aligned chunks end.

With t and s the teacher's and student's states at the ends of the chunks, the loss of one layer
is the mean of (s − t)² / n over chunks and channels, n the mean of t² over chunks and channels
(``l2``) or over chunks alone (``l2_channelwise``); ``l1`` and ``l1_channelwise`` take absolute
values. Layers are averaged, kinds of states added.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from tokenkit.batch import Sequences
from tokenkit.config import Config, key, to_toml
from tokenkit.errors import ModelError
from tokenkit.losses.base import Loss
from tokenkit.losses.pairs import Pairs, at, ends_of_chunks
from tokenkit.losses.projection import linear
from tokenkit.losses.registry import LOSSES
from tokenkit.models.outputs import Outputs

NEEDED = {"last_hidden_state": "hidden", "all_hidden_states": "hidden_states", "qkv": "qkv"}
CHUNKS = {"naive": "unconstrained", "space": "space"}


@dataclass
class LatentsSettings:
    """Hidden states at chunk ends, the loss alm_latents."""

    states: str = key("last_hidden_state", "which states", joined=tuple(NEEDED))
    normalization: str = key(
        "l2_channelwise",
        "measure of the difference",
        choices=("l2", "l2_channelwise", "l1", "l1_channelwise"),
    )
    chunks: str = key("naive", "which chunks' ends", choices=("naive", "space"))
    project: bool = key(False, "learn a map from the student's to the teacher's hidden states")


class Match(NamedTuple):
    """Where aligned chunks end."""

    pairs: Pairs
    teacher: Outputs


@LOSSES.register("alm_latents")
class Latents(Loss):
    """Differences of states, measured in units of the teacher's."""

    section, Settings = "latents", LatentsSettings
    needs = frozenset({"hidden"})

    @classmethod
    def problems(cls, config: Config) -> Iterator[str]:
        states = config.latents.states
        if not states:
            yield f"latents.states is empty: name some of {', '.join(NEEDED)}, joined by +"
        if "qkv" in states and config.latents.project:
            yield (
                f"latents.project = true with latents.states = {to_toml(states)}: only hidden "
                "states are projected; leave qkv out"
            )
        if "qkv" in states and config.compile.enable:
            yield (
                "compile.enable = true with latents.states including qkv: projections inside "
                "compiled layers cannot be read; set one of them differently"
            )

    def __init__(self, config: Config, student_tok=None, teacher_tok=None) -> None:
        super().__init__(config)
        latents = config.latents
        self.kinds = latents.states.split("+")
        self.needs = frozenset(NEEDED[kind] for kind in self.kinds)
        self.chunk_kind = CHUNKS[latents.chunks]
        self.pair = partial(ends_of_chunks, kind=self.chunk_kind, active=False)
        self.power = 2 if latents.normalization.startswith("l2") else 1
        self.channelwise = latents.normalization.endswith("channelwise")
        self.project = latents.project
        self.projection: nn.Linear | None = None

    def add_parameters(self, student_width: int, teacher_width: int) -> None:
        """Make the projection from the student's to the teacher's width, if asked for."""
        if self.project:
            self.projection = nn.Linear(student_width, teacher_width)

    def match(self, student: Sequences, teacher: Outputs) -> Match:
        return Match(self.paired(student, teacher.seq), teacher)

    def count(self, match: Match) -> Tensor:
        """``[1 + …]``: the number of chunks, and for every layer the sum of the teacher's norms."""
        places = match.pairs.teacher
        states = [at(state, places).float() for state in self._all(match.teacher)]
        sums = [state.abs().pow(self.power) for state in states]
        sums = [s.sum(0) if self.channelwise else s.sum().view(1) for s in sums]
        return torch.cat([match.pairs.number.view(1), *sums])

    def forward(
        self, match: Match, student: Outputs, teacher: Outputs, count: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        chunks, norms = count[0].clamp(min=1.0), count[1:]
        total = torch.zeros((), device=count.device)
        for kind in self.kinds:
            ours, theirs = self._states(student, kind), self._states(teacher, kind)
            if len(ours) != len(theirs):
                raise ModelError(
                    f"loss alm_latents: the student has {len(ours)} layers of {kind}, the teacher "
                    f"{len(theirs)}; use latents.states = 'last_hidden_state'"
                )
            for mine, state in zip(ours, theirs, strict=True):
                s = at(self._project(mine, state, kind), match.pairs.student).float()
                t = at(state, match.pairs.teacher).float()
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

    def _all(self, outputs: Outputs) -> list[Tensor]:
        return [state for kind in self.kinds for state in self._states(outputs, kind)]

    @staticmethod
    def _states(outputs: Outputs, kind: str) -> tuple[Tensor, ...]:
        if kind == "last_hidden_state":
            return (outputs.hidden,)
        return outputs.hidden_states if kind == "all_hidden_states" else outputs.qkv
