"""train.py that also writes how many bytes a rank sends in each optimizer step, as rings send."""

from __future__ import annotations

import json
from pathlib import Path

import torch.distributed as dist
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

import tokenkit.training.step
import train
from tokenkit.parallelisms import context_parallel
from tokenkit.training.step import TrainStep

FILE = "sent.json"
STEPS: list[float] = []


class Sent(TorchDispatchMode):
    """Sums (n − 1) / n of what is gathered or reduced, twice that of what is all-reduced."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0.0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._opname.strip("_")
        if name == "allgather_base":
            whole, part = args[:2]
            self.bytes += (whole.numel() - part.numel()) * whole.element_size()
        elif name == "reduce_scatter_base":
            part, whole = args[:2]
            self.bytes += (whole.numel() - part.numel()) * whole.element_size()
        elif name == "allreduce":
            size = sum(tensor.numel() * tensor.element_size() for tensor in args[0])
            self.bytes += 2 * size * (1 - 1 / dist.get_world_size())
        return func(*args, **(kwargs or {}))


class CountedStep(TrainStep):
    def __call__(self, batch, step):
        with Sent() as sent:
            metrics = super().__call__(batch, step)
        STEPS.append(sent.bytes)
        if dist.get_rank() == 0:
            Path(self.config.job.output_dir, FILE).write_text(json.dumps(STEPS))
        return metrics


def plain_mask(*sizes):
    """torch cannot make its causal masks where operations are counted."""
    with _disable_current_modes():
        return MASK(*sizes)


MASK = context_parallel.causal_lower_right


def main() -> None:
    context_parallel.causal_lower_right = plain_mask
    tokenkit.training.step.TrainStep = CountedStep
    train.main()
