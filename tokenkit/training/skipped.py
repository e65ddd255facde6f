"""Steps that changed nothing, because a loss or gradient was not finite: counted, said, limited."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from tokenkit.batch import StepBatch
from tokenkit.errors import TrainingError
from tokenkit.log import logger
from tokenkit.training.update import SKIPPED, must_be_finite

SHOWN_FILES, SHOWN_ROWS = 2, 8  # that a message names


@dataclass
class _Seen:
    """What a step came to, on its way to the CPU.

    Attributes:
        values: skipped steps in a row up to this one, then 1 for each of ``names`` not finite here.
        arrived: None if the values are there.
    """

    step: int
    places: list[str]
    names: list[str]
    values: Tensor
    arrived: torch.cuda.Event | None


class SkippedSteps:
    """Counts skipped steps on the device and ends a run that has too many of them in a row.

    A step is looked at when the next one has been handed to the device, so that the device always
    has work; on a CPU at once.

    Args:
        limit: of skipped steps in a row; 0 for none.
    """

    def __init__(self, limit: int, device: torch.device) -> None:
        self.limit = limit
        self.total, self.in_a_row = torch.zeros(2, device=device).unbind()
        self._steps = 0
        self._last: _Seen | None = None  # still to be looked at
        self._seen: _Seen | None = None
        self._now_in_a_row = 0

    def __call__(
        self, step: int, batch: StepBatch, metrics: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """Count step number ``step`` (from 0).

        Returns:
            The metrics with ``same/skipped_steps``, how many there were since the start.

        Raises:
            TrainingError: the same on all ranks, if there are too many.
        """
        skipped = metrics[SKIPPED]
        self._steps += 1
        self.total = self.total + skipped
        self.in_a_row = (self.in_a_row + 1.0) * skipped
        self._look()
        self._last = self._sent(step, batch, metrics)
        if self._last.arrived is None:
            self._look()
        rest = {name: value for name, value in metrics.items() if name != SKIPPED}
        return {**rest, "same/skipped_steps": self.total}

    def finish(self) -> None:
        """Look at the last step.

        Raises:
            TrainingError: if not one step was an update.
        """
        self._look()
        if self._seen is not None and self.limit and self._now_in_a_row == self._steps:
            self._refuse(self._seen)

    def _sent(self, step: int, batch: StepBatch, metrics: dict[str, Tensor]) -> _Seen:
        found = must_be_finite(metrics)
        bad = torch.stack([value.detach().float() for value in found.values()]).isfinite()
        values = torch.cat([self.in_a_row[None], bad.logical_not().float()])
        arrived = None
        if values.device.type == "cuda":
            values = values.to("cpu", non_blocking=True)
            arrived = torch.cuda.current_stream().record_event()
        places = [place for micro in batch.micro_batches for place in micro.places]
        return _Seen(step, places, list(found), values, arrived)

    def _look(self) -> None:
        """Read what the last step came to; warn of a skipped one."""
        last, self._last = self._last, None
        if last is None:
            return
        if last.arrived is not None:
            last.arrived.synchronize()
        self._seen = last
        self._now_in_a_row = int(last.values[0])
        if not self._now_in_a_row:
            return
        reasons = _reasons(last)
        # A loss is one rank's own, the norm of the gradient everybody's.
        if reasons and (dist.get_rank() == 0 or _is_loss(reasons[0])):
            rows = _rows(last.places) if _tells_rows(reasons) else ""
            logger.warning(f"step {last.step + 1} changes nothing: {_sentence(reasons)}{rows}")
        if self.limit and self._now_in_a_row >= self.limit:
            self._refuse(last)

    def _refuse(self, last: _Seen) -> None:
        """Raise, on all ranks, what the rank says that has the reason."""
        mine = (_reasons(last), last.places)
        ranks: list[tuple[list[str], list[str]]] = [mine] * dist.get_world_size()
        dist.all_gather_object(ranks, mine)
        rank = min(range(len(ranks)), key=lambda r: not any(map(_is_loss, ranks[r][0])))
        reasons, places = ranks[rank]
        rows = f" on rank {rank}{_rows(places)}" if _tells_rows(reasons) else ""
        raise TrainingError(
            f"step {last.step + 1}: the last {self._now_in_a_row} steps changed nothing "
            f"(training.max_skipped = {self.limit}); {_sentence(reasons)}{rows}; "
            "lower optimizer.lr or loss.weights, or leave such rows out"
        )


def _is_loss(name: str) -> bool:
    return name.startswith("loss/")


def _tells_rows(reasons: list[str]) -> bool:
    """Whether rows of the rank that says so are the ones; a gradient is a sum over ranks."""
    return any(map(_is_loss, reasons)) or dist.get_world_size() == 1


def _reasons(seen: _Seen) -> list[str]:
    """What was not finite on this rank: losses, or else what follows from them."""
    bad = [name for name, value in zip(seen.names, seen.values[1:].tolist(), strict=True) if value]
    losses = [name for name in bad if _is_loss(name)]
    return losses or bad


def _sentence(names: list[str]) -> str:
    told = [
        f"loss {name.removeprefix('loss/')}" if _is_loss(name)
        else "the weighted loss" if name == "loss"
        else f"the gradient of {name.partition('/')[2]}" if "/" in name
        else "the gradient"
        for name in names
    ]  # fmt: skip
    return f"{', '.join(told) or 'a number'} {'is' if len(told) < 2 else 'are'} not finite"


def _rows(places: list[str]) -> str:
    """Where rows stand, ``file:line`` each; nothing of none (a phase that reads no texts)."""
    files: dict[str, list[str]] = {}
    for place in places:
        file, _, line = place.rpartition(":")
        files.setdefault(file, []).append(line)
    parts = []
    for file, lines in list(files.items())[:SHOWN_FILES]:
        more = ", …" if len(lines) > SHOWN_ROWS else ""
        parts.append(f"{', '.join(lines[:SHOWN_ROWS])}{more} of {file}")
    more = ", …" if len(files) > SHOWN_FILES else ""
    return f" (rows {', '.join(parts)}{more})" if parts else ""
