"""What a transfer will take on this machine: parameters, memory, minutes. Estimates."""

from __future__ import annotations

import math
import os
import time
from dataclasses import dataclass

import torch

from tokenkit.cards import GIB, card_called
from tokenkit.config import Config
from tokenkit.models.flops import Tokens
from tokenkit.parallelisms import DTYPES
from tokenkit.planning.layout import Layout
from tokenkit.planning.memory import Sizes, count_sizes, plan_memory
from tokenkit.planning.models import Shapes, build_models, open_shape
from tokenkit.training.throughput import step_flops

# Share of the speed of large matmuls that a step's own reach, what is between them included.
EFFICIENCY = {"cpu": 0.4, "cuda": 0.3}


@dataclass(frozen=True)
class Costs:
    """Of a run on one device.

    Attributes:
        tokens: of the source's and of the new tokenizer.
        memory: GiB at the peak of a step.
        room: GiB of the device.
        seconds: of all steps; None where the device's speed is not known.
    """

    tokens: tuple[int, int]
    sizes: Sizes
    memory: float
    room: float
    seconds: float | None


def costs_of(config: Config, device: torch.device, old: int, new: int) -> Costs:
    """Plan a run on one device; the models' shapes are read, not their weights.

    Args:
        old, new: tokens of the source's and of the new tokenizer.

    Raises:
        ConfigError, ModelError: if no plan can be made.
    """
    training, source = config.training, open_shape("student.model", config.student.model)
    shapes = Shapes(source, None, old, new, old, ())
    models = build_models(config, shapes, DTYPES[training.dtype])
    memory = plan_memory(config, shapes, Layout.of(config, 1), device.type)
    flops = step_flops(config, models.student, models.teacher, models.losses, 1)
    rows = training.batch_size
    student = Tokens(rows * training.max_student_length, rows)
    teacher = Tokens(rows * training.max_teacher_length, rows)
    speed = matmul_speed(device, training.dtype)
    seconds = training.steps * flops.hardware(student, teacher)
    return Costs(
        (old, new),
        count_sizes(models),
        memory.total / GIB,
        room(device) / GIB,
        speed and seconds / (speed * EFFICIENCY[device.type]),
    )


def room(device: torch.device) -> float:
    """Bytes of the device's memory."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def matmul_speed(device: torch.device, dtype: str) -> float | None:
    """FLOP/s of large matmuls: a card's by its data sheet, a CPU's measured."""
    if device.type == "cuda":
        card = card_called(torch.cuda.get_device_name(device))
        return None if card is None else card.peak(dtype)
    a = torch.randn(768, 768).to(DTYPES[dtype])
    fastest = math.inf  # what other work on the machine leaves to few of them
    for _ in range(12):
        begin = time.perf_counter()
        torch.mm(a, a)
        fastest = min(fastest, time.perf_counter() - begin)
    return 2 * 768**3 / fastest
