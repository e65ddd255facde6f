"""train.py that also writes what its ranks send in each optimizer step."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import torch.distributed as dist
from torch.utils._python_dispatch import TorchDispatchMode

import tokenkit.training.step
import train
from tokenkit.training.step import TrainStep

FILE = "messages.json"
STEPS: list[dict[str, int]] = []


class Messages(TorchDispatchMode):
    """Counts collectives by name.

    ``waited_for`` are gathers in backward that begin only when the layer is needed. FSDP names
    what it does for profilers, and so tells these from those ahead of time.
    """

    def __init__(self) -> None:
        super().__init__()
        self.counts = Counter(waited_for=0)
        self.doing: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._opname.strip("_")
        if name == "record_function_enter_new":
            self.doing.append(args[0])
        elif name == "record_function_exit":
            self.doing.pop()
        elif func.namespace == "c10d":
            self.counts[name] += 1
            if name == "allgather_base":
                backward = any("FSDP::pre_backward" in what for what in self.doing)
                ahead = any("FSDP::backward_prefetch" in what for what in self.doing)
                self.counts["waited_for"] += backward and not ahead
        return func(*args, **(kwargs or {}))


class CountedStep(TrainStep):
    def __call__(self, batch, step):
        with Messages() as messages:
            metrics = super().__call__(batch, step)
        STEPS.append(messages.counts)
        if dist.get_rank() == 0:
            Path(self.config.job.output_dir, FILE).write_text(json.dumps(STEPS))
        return metrics


def main() -> None:
    tokenkit.training.step.TrainStep = CountedStep
    train.main()
