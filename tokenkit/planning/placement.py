"""What a rank holds whole: a run's own decisions (``parallelisms.memory``), on models of shapes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor, nn

from tokenkit.balance import sums_losses
from tokenkit.cards import CARDS
from tokenkit.config import Config
from tokenkit.parallelisms.memory import (
    SHARE_OF_FROZEN,
    SHARE_OF_STEP,
    bytes_of_frozen,
    bytes_of_step,
    device_bytes,
)
from tokenkit.planning.layout import Degrees, Layout
from tokenkit.planning.models import PlannedModels


def room_of(device: str, world_size: int) -> float:
    """Bytes for one rank.

    Args:
        device: a card of the table, "cuda" for the one that is here, or "cpu" for a share of this
            machine's.
    """
    return CARDS[device].memory if device in CARDS else device_bytes(device, world_size)


@dataclass(frozen=True)
class Placement:
    """Which parameters ranks cut among them, and how long a step keeps them joined.

    Attributes:
        sharded: ``id`` of each parameter that FSDP cuts among ranks.
        unsharded: micro-batches of a step share gathered weights and one sum of gradients.
    """

    sharded: frozenset[int]
    unsharded: bool

    @classmethod
    def of(cls, config: Config, models: PlannedModels, layout: Layout, device: str) -> Placement:
        """What a run would do.

        Args:
            models: those of one rank of the layout.
        """
        room = room_of(device, layout.world_size)
        own, theirs = layout.student_degrees, layout.teacher_degrees
        sharded: set[int] = set()
        for module, degrees in (
            (models.student, own), (models.teacher_model, theirs), (models.beside, own)
        ):  # fmt: skip
            if module is not None and degrees.is_wrapped(config):
                whole = _keeps_frozen_whole(config, module, degrees, room)
                sharded |= {id(p) for p in module.parameters() if p.requires_grad or not whole}
        wish = config.training.accumulate
        several = layout.micro_batches(config) > 1
        if not several or not own.is_wrapped(config) or not sums_losses(config):
            unsharded = False
        elif wish == "auto":
            whole = _keeps_frozen_whole(config, models.student, own, room)
            unsharded = bytes_of_step(models.student, config, whole) <= SHARE_OF_STEP * room
        else:
            unsharded = wish == "unsharded"
        return cls(frozenset(sharded), unsharded)

    def cut(self, parameters: Iterable[Tensor]) -> list[Tensor]:
        """Those that FSDP cuts."""
        return [p for p in parameters if id(p) in self.sharded]

    def held(self, parameters: Iterable[Tensor], shards: int, size: int) -> float:
        """Bytes that a rank has of parameters of ``size`` bytes a number."""
        return sum(p.numel() * size / (shards if id(p) in self.sharded else 1) for p in parameters)


def _keeps_frozen_whole(config: Config, module: nn.Module, degrees: Degrees, room: float) -> bool:
    wish = config.parallelism.frozen
    if wish != "auto":
        return wish == "replicated"
    ranks = degrees.replicate * degrees.shard
    return ranks == 1 or bytes_of_frozen(module) <= SHARE_OF_FROZEN * room
