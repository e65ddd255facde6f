"""A layout that fits a card, and of those that do the one that should be fastest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from tokenkit.cards import Card
from tokenkit.config import Config
from tokenkit.planning.layout import Layout, LayoutError
from tokenkit.planning.memory import Memory, framework_bytes, plan_memory
from tokenkit.planning.models import PlannedModels, Shapes
from tokenkit.planning.placement import Placement
from tokenkit.planning.speed import count_messages, predict_step

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
    """Memory of many layouts from rehearsals of few: it is linear in the rows of a micro-batch and
    in the reciprocal of the shard degree."""

    def __init__(self, config: Config, shapes: Shapes, device: str) -> None:
        self.config, self.shapes, self.device = config, shapes, device
        self._known: dict[tuple[int, str, bool], tuple[Memory, Memory, Memory]] = {}

    def total(self, layout: Layout) -> float:
        """Bytes of a rank.

        Raises:
            LayoutError: if the model cannot be split so.
        """
        several = layout.micro_batches(self.config) > 1
        key = layout.tp, layout.recompute, several
        if key not in self._known:
            # From two shards on FSDP is there.
            sizes = ((2, 1), (2, 2), (4, 1))
            one, two, four = (self._planned(layout, several, *size) for size in sizes)
            self._known[key] = one, two, four
        one, two, four = self._known[key]
        rows = layout.micro_batch_size
        half, quarter = _resting(one), _resting(four)
        resting = half + (half - quarter) * (4 / layout.shard - 2)
        first, second = one.activations + one.working, two.activations + two.working
        dynamic = first + (rows - 1) * (second - first)
        allocated = resting + one.gathered + dynamic
        return allocated + framework_bytes(allocated, layout.world_size)

    def _planned(self, like: Layout, several: bool, shard: int, rows: int) -> Memory:
        config = self.config.copy()
        config.training.batch_size = shard * rows * (4 if several else 1)
        layout = Layout(1, shard, like.tp, rows, like.recompute)
        return plan_memory(config, self.shapes, layout, self.device)


def _resting(memory: Memory) -> float:
    """What does not depend on a micro-batch's rows."""
    return memory.student + memory.teacher + memory.optimizer + memory.gradients


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
                (_seconds(layout.applied(config), models, layout, card), layout)
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


def _seconds(config: Config, models: PlannedModels, layout: Layout, card: Card) -> float:
    placement = Placement.of(config, models, layout, card.name, layout.tp)
    messages = count_messages(config, models, layout, placement)
    return predict_step(config, models, layout, messages, card, None).total
