"""A teacher that reads shards: all ranks make the same number of passes, with rows or without."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from tokenkit.batch import Batch, Sequences, StepBatch
from tokenkit.data.stretches import Stretch
from tokenkit.models.outputs import CACHED, Outputs
from tokenkit.training.teacher import Teacher


def rows_in_passes(stretches: Sequence[Stretch], size: int) -> list[int]:
    """Rows that all ranks read together in each pass over the stretches of one round."""
    longest = max(len(stretch.places) for stretch in stretches)
    return [
        sum(min(size, max(0, len(stretch.places) - begin)) for stretch in stretches)
        for begin in range(0, longest, size)
    ]


def read_stretch(
    teacher: Teacher, step: StepBatch, passes: int, device: torch.device
) -> Iterator[tuple[Batch, Outputs]]:
    """What the teacher says of a stretch's micro-batches.

    One that is sharded gathers its layers in each pass, so a rank without rows reads a token of no
    text. Outputs come when the next pass is under way, so that the device does not wait for who
    copies them.
    """
    before: tuple[Batch, Outputs] | None = None
    for number in range(passes):
        batch = step.micro_batches[number] if number < len(step.micro_batches) else _nothing()
        outputs = teacher.read(batch.student.to(device), CACHED)
        if before is not None:
            yield before
        before = batch, outputs
    if before is not None:
        yield before


def _nothing() -> Batch:
    return Batch(Sequences.of(torch.zeros(1, 2, dtype=torch.int64)), places=[""], keys=[-1])
