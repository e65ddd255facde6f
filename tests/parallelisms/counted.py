"""train.py that also writes what its ranks send in each optimizer step."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import torch.distributed as dist
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

import tokenkit.training.step
import train
from tokenkit.training.step import TrainStep

FILE = "messages.json"
STEPS: list[dict[str, int]] = []


class Messages(TorchDispatchMode):
    """Counts collectives by name."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "c10d":
            self.counts[func._opname.strip("_")] += 1
        return func(*args, **(kwargs or {}))


def callers(event) -> list[str]:
    names = []
    while event.cpu_parent is not None:
        event = event.cpu_parent
        names.append(event.name)
    return names


def waited_for(events) -> int:
    """Gathers in backward that began only when the layer was needed."""
    gathers = [callers(e) for e in events if e.name.startswith("FSDP::all_gather (")]
    late = [names for names in gathers if any("pre_backward" in name for name in names)]
    return sum(not any("backward_prefetch" in name for name in names) for names in late)


class CountedStep(TrainStep):
    def __call__(self, batch, step):
        if not step:  # the first one makes what later ones find
            return super().__call__(batch, step)
        with profile(activities=[ProfilerActivity.CPU]) as profiler, Messages() as messages:
            metrics = super().__call__(batch, step)
        STEPS.append({**messages.counts, "waited_for": waited_for(profiler.events())})
        if dist.get_rank() == 0:
            Path(self.config.job.output_dir, FILE).write_text(json.dumps(STEPS))
        return metrics


def main() -> None:
    tokenkit.training.step.TrainStep = CountedStep
    train.main()
