"""A layout that fits a card, and of those that do the one that should be fastest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from tokenkit.cards import Card
from tokenkit.config import Config
from tokenkit.planning.layout import Layout, LayoutError
from tokenkit.planning.memory import Memory, framework_bytes, plan_memory
from tokenkit.planning.models import PlannedModels, Shapes
from tokenkit.planning.speed import predict_step

MODES = ("none", "selective_ops", "full")
MOST_TRIED = 4  # of the fastest, which are then looked at closely


def powers_of_two(most: int) -> list[int]:
    return [2**n for n in range(most.bit_length()) if 2**n <= most]


def layouts(config: Config, world_size: int, tp: int, mode: str) -> Iterator[Layout]:
    """Those that divide ranks and batch."""
    if world_size % tp:
        return
    ranks = world_size // tp
    for shard in (n for n in range(1, ranks + 1) if ranks % n == 0):
        for micro in powers_of_two(config.training.batch_size):
            if config.training.batch_size % (micro * ranks) == 0:
                yield Layout(ranks // shard, shard, tp, micro, mode)


class Scaled:
    """Memory of many layouts from rehearsals of few: it is linear in the rows of a micro-batch, and
    what is sharded goes by the shard degree."""

    def __init__(self, config: Config, shapes: Shapes, device: str) -> None:
        self.config, self.shapes, self.device = config, shapes, device
        self._known: dict[tuple[int, str], tuple[Memory, Memory]] = {}

    def total(self, layout: Layout) -> float:
        """Bytes of a rank.

        Raises:
            LayoutError: if the model cannot be split so.
        """
        key = layout.tp, layout.recompute
        if key not in self._known:
            config = self.config.copy()
            # Two shards, so that FSDP is there.
            pair = [Layout(1, 2, layout.tp, rows, layout.recompute) for rows in (1, 2)]
            config.training.batch_size = 4
            one, two = (plan_memory(config, self.shapes, each, self.device) for each in pair)
            self._known[key] = one, two
        one, two = self._known[key]
        rows, ratio = layout.micro_batch_size, 2 / layout.shard
        sharded = (one.student + one.teacher + one.optimizer + one.gradients) * ratio
        first, second = one.activations + one.working, two.activations + two.working
        dynamic = first + (rows - 1) * (second - first)
        allocated = sharded + one.gathered + dynamic
        return allocated + framework_bytes(allocated, layout.world_size)


def find_layout(
    config: Config, shapes: Shapes, models: PlannedModels, card: Card, world_size: int
) -> tuple[Layout, Memory] | None:
    """The fastest layout that fits, with as little tensor parallelism as is needed; None if none
    does.

    Args:
        models: built whole.
    """
    scaled = Scaled(config, shapes, card.name)
    for tp in (n for n in (1, 2, 4, 8) if n <= min(card.per_node, world_size)):
        found = []
        for mode in MODES:
            try:
                fitting = [
                    layout
                    for layout in layouts(config, world_size, tp, mode)
                    if scaled.total(layout) <= card.memory
                ]
            except LayoutError:  # the model cannot be split so
                continue
            found += [
                (predict_step(layout.applied(config), models, layout, card, None).total, layout)
                for layout in fitting
            ]
        found.sort(key=lambda pair: (pair[0], pair[1].tp, pair[1].shard))
        for _, layout in found[:MOST_TRIED]:
            memory = plan_memory(config, shapes, layout, card.name)
            if memory.total <= card.memory:
                return layout, memory
            smaller = replace(layout, micro_batch_size=max(1, layout.micro_batch_size // 2))
            memory = plan_memory(config, shapes, smaller, card.name)
            if memory.total <= card.memory:
                return smaller, memory
    return None
