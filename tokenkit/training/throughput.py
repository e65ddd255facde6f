"""What a run's figures of speed are made of: FLOPs of its steps, and time that is not training."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from tokenkit.balance import balance_of, sums_losses
from tokenkit.cards import card_called
from tokenkit.config import Config, rows_at_once
from tokenkit.losses import Loss
from tokenkit.models.causal_lm import CausalLM
from tokenkit.models.flops import ModelSize, StepFlops, StepKind, Tokens, recomputed_shares
from tokenkit.training.teacher import Teacher


def step_kind(config: Config, losses: Sequence[Loss], layers: int, micro_batches: int) -> StepKind:
    """How a config's steps are done.

    Args:
        layers: of the student.
        micro_batches: of a rank and step.
    """
    balance: Any = balance_of(config.loss.aggregation)
    measures = getattr(balance, "measures", False)
    needs = frozenset().union(*(loss.needs for loss in losses))
    checkpointing = config.activation_checkpoint
    layers_again, attention_again = recomputed_shares(
        checkpointing.mode, checkpointing.every_n, layers
    )
    return StepKind(
        losses=len(losses),
        measures=measures and 1.0 / (1 if balance.always else config.loss.balance_interval),
        probes=measures and micro_batches > 1,
        mixes=not sums_losses(config),
        boundary="boundary" in needs,
        recomputed=layers_again,
        recomputed_attention=attention_again,
        student_streams=sum(loss.streams for loss in losses),
        teacher_streams=sum(loss.streams for loss in losses if loss.needs_teacher),
    )


def step_flops(
    config: Config,
    student: CausalLM,
    teacher: Teacher | None,
    losses: Sequence[Loss],
    dp_size: int,
) -> StepFlops:
    """FLOPs of the steps of a run whose models are built."""
    training = config.training
    micro_batches = training.batch_size // (rows_at_once(config, dp_size) * dp_size)
    return StepFlops(
        ModelSize.of(student),
        None if teacher is None else teacher.size,
        step_kind(config, losses, len(student.layers), micro_batches),
    )


def peak_flops(device: torch.device, dtype: str) -> float | None:
    """Peak of this GPU in a compute dtype, or None if it (or its peak) is unknown."""
    if device.type != "cuda":
        return None
    card = card_called(torch.cuda.get_device_name(device))
    return None if card is None else card.peak(dtype)


class Clock:
    """Seconds since the last reading, and where they went.

    Seconds of validation, tasks and checkpoints are *apart*: they are in no figure of speed.
    """

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        self._begin = time.perf_counter()
        self._spent = {"data": 0.0, "apart": 0.0}

    @contextmanager
    def spent_on(self, what: str) -> Iterator[None]:
        """Count the time inside as waiting for "data", or as "apart" from training."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            self._spent[what] += time.perf_counter() - begin

    def read(self) -> tuple[float, float]:
        """Seconds of training, and those of them that waited for data; starts anew."""
        total = time.perf_counter() - self._begin
        training, data = total - self._spent["apart"], self._spent["data"]
        self.restart()
        return max(training, 1e-9), data


def speed(
    flops: StepFlops,
    counts: dict[str, float],
    seconds: float,
    data: float,
    world: int,
    peak: float | None,
) -> dict[str, float]:
    """Figures of a stretch of steps, of real tokens.

    Args:
        counts: sums over ranks of rows and tokens of both sides.
        seconds: of training, of which ``data`` waited for data.
        peak: FLOP/s of one device; None: unknown.

    Returns:
        ``tokens_per_second`` (the student's), ``teacher_tokens_per_second``, ``data_wait``
        (share of the time) and, with a peak, ``mfu`` and ``hfu``: model and hardware FLOPs
        as shares of what all devices could have done.
    """  # fmt: skip
    rows = counts.get("rows", 0.0)
    student = Tokens(counts.get("student_tokens", 0.0), rows)
    teacher = Tokens(counts.get("teacher_tokens", 0.0), rows)
    found = {"tokens_per_second": student.tokens / seconds, "data_wait": data / seconds}
    if teacher.tokens:
        found["teacher_tokens_per_second"] = teacher.tokens / seconds
    if peak is not None:
        possible = peak * world * seconds
        found["mfu"] = flops.model(student, teacher) / possible
        found["hfu"] = flops.hardware(student, teacher) / possible
    return found
