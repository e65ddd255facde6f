"""A layout that fits a card, and of those that do the one that should be fastest."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace

from tqdm.auto import tqdm

from tokenkit.cards import Card
from tokenkit.config import Config
from tokenkit.log import logger
from tokenkit.parallelisms import DTYPES
from tokenkit.planning.layout import Degrees, Layout, LayoutError
from tokenkit.planning.memory import Memory, framework_bytes, plan_memory
from tokenkit.planning.models import PlannedModels, Shapes, build_models
from tokenkit.planning.placement import Placement
from tokenkit.planning.speed import count_messages, predict_step

MODES = ("none", "selective_ops", "full")
MOST_TRIED = 4  # of the fastest, which are then looked at closely
WORTH = 0.98  # of a step's time: a teacher's own layout that saves less is not proposed


def powers_of_two(most: int) -> list[int]:
    return [2**n for n in range(most.bit_length()) if 2**n <= most]


def layouts(
    config: Config, world_size: int, tp: int, mode: str, context: int = 1
) -> Iterator[Layout]:
    """Those that divide ranks and batch; the teacher lies as the student does."""
    if world_size % (tp * context):
        return
    ranks = world_size // (tp * context)
    for shard in (n for n in range(1, ranks + 1) if ranks % n == 0):
        for micro in powers_of_two(config.training.batch_size):
            if config.training.batch_size % (micro * ranks) == 0:
                yield Layout(ranks // shard, shard, tp, micro, mode, context)


def with_teachers(layout: Layout, config: Config, per_node: int) -> Iterator[Layout]:
    """A layout, and the same with a teacher that reads more rows at once, or lies otherwise."""
    rows = layout.micro_batch_size
    at_once = [0, *(n * rows for n in powers_of_two(layout.micro_batches(config)) if n > 1)]
    places: list[Degrees | None] = [None]
    for tp in powers_of_two(min(per_node, layout.world_size)):
        other = tp > layout.same_rows or (tp == layout.same_rows and layout.replicate > 1)
        if other and tp % layout.same_rows == 0 and layout.world_size % tp == 0:
            places.append(Degrees(1, layout.world_size // tp, tp))
    for place in places:
        for number in at_once:
            yield replace(layout, teacher=place, teacher_rows=number)


class Scaled:
    """Memory of many layouts from rehearsals of few: it is linear in the rows of a micro-batch and
    in the reciprocal of the shard degree."""

    def __init__(self, config: Config, shapes: Shapes, device: str) -> None:
        self.config, self.shapes, self.device = config, shapes, device
        self._known: dict[tuple[int, int, str, bool], tuple[Memory, Memory, Memory]] = {}
        self.bar = tqdm(
            desc="layouts", unit=" rehearsed", leave=False, disable=not sys.stderr.isatty()
        )

    def total(self, layout: Layout) -> float:
        """Bytes of a rank.

        Raises:
            LayoutError: if the model cannot be split so.
        """
        one, two, _ = self._samples(layout)
        first, second = one.activations + one.working, two.activations + two.working
        dynamic = first + (layout.micro_batch_size - 1) * (second - first)
        allocated = self.resting(layout) + dynamic
        return allocated + framework_bytes(allocated, layout.world_size)

    def resting(self, layout: Layout) -> float:
        """Of these bytes, what does not depend on a micro-batch's rows."""
        one, _, four = self._samples(layout)
        half, quarter = _resting(one), _resting(four)
        return half + (half - quarter) * (4 / layout.shard - 2) + one.gathered

    def planned(self, layout: Layout, config: Config | None = None) -> Memory:
        """Of a layout itself."""
        found = plan_memory(config or self.config, self.shapes, layout, self.device)
        self.bar.update()
        return found

    def _samples(self, layout: Layout) -> tuple[Memory, Memory, Memory]:
        several = layout.micro_batches(self.config) > 1
        key = layout.tp, layout.context, layout.recompute, several
        if key not in self._known:
            # From two shards on FSDP is there.
            sizes = ((2, 1), (2, 2), (4, 1))
            one, two, four = (self._sample(layout, several, *size) for size in sizes)
            self._known[key] = one, two, four
        return self._known[key]

    def _sample(self, like: Layout, several: bool, shard: int, rows: int) -> Memory:
        config = self.config.copy()
        config.training.batch_size = shard * rows * (4 if several else 1)
        layout = Layout(1, shard, like.tp, rows, like.recompute, like.context)
        return self.planned(layout, config)


def _resting(memory: Memory) -> float:
    """What ranks cut among them."""
    return memory.student + memory.teacher + memory.optimizer + memory.gradients


class Times:
    """Predicted seconds of a step of many layouts.

    Args:
        whole: models that are built whole.
    """

    def __init__(self, config: Config, shapes: Shapes, whole: PlannedModels, card: Card) -> None:
        self.config, self.shapes, self.whole, self.card = config, shapes, whole, card
        self._models: dict[tuple[int, int, bool], PlannedModels] = {}

    def seconds(self, layout: Layout) -> float:
        """Of one.

        Raises:
            LayoutError: if a model cannot be split so.
        """
        config = layout.applied(self.config)
        key = layout.tp, layout.teacher_degrees.tp, layout.rows_together > 1
        if key not in self._models:
            dtype = DTYPES[config.training.dtype]
            self._models[key] = build_models(config, self.shapes, dtype, layout)
        models = self._models[key]
        placement = Placement.of(config, models, layout, self.card.name)
        messages = count_messages(config, models, layout, placement)
        return predict_step(config, self.whole, layout, messages, self.card, None).total


def find_layout(
    config: Config, shapes: Shapes, models: PlannedModels, card: Card, world_size: int
) -> tuple[Layout, Memory] | None:
    """The fastest layout that fits, with as few ranks sharing rows as are needed; None if none
    does.

    Args:
        models: built whole.
    """
    scaled, times = Scaled(config, shapes, card.name), Times(config, shapes, models, card)
    try:
        for same_rows in (n for n in (1, 2, 4, 8) if n <= min(card.per_node, world_size)):
            logger.info(f"looking at layouts: {same_rows} ranks for a row (some minutes in all)")
            found = _fastest(scaled, times, world_size, same_rows)
            if found is not None:
                return found
    finally:
        scaled.bar.close()
    return None


def _fastest(
    scaled: Scaled, times: Times, world_size: int, same_rows: int
) -> tuple[Layout, Memory] | None:
    """Of layouts in which so many ranks see the same rows."""
    config, room = scaled.config, times.card.memory
    known: list[tuple[float, Layout]] = []
    readers = [m for m in (times.whole.student, times.whole.teacher_model) if m is not None]
    learned = any(model.architecture.learned_positions for model in readers)
    for context in powers_of_two(same_rows):
        if context > 1 and learned:
            continue
        for mode in MODES:
            try:
                known += [
                    (scaled.total(layout), layout)
                    for layout in layouts(config, world_size, same_rows // context, mode, context)
                    if context == 1 or scaled.resting(layout) <= room
                ]
            except LayoutError:  # the model cannot be split so
                continue
    fitting = [layout for total, layout in known if total <= room]
    timed = sorted(
        ((times.seconds(layout), layout) for layout in fitting),
        key=lambda pair: (pair[0], pair[1].tp, pair[1].shard),
    )
    tried = _candidates(times, [layout for _, layout in timed[:MOST_TRIED]])
    if not fitting and known:  # it may be the teacher that is in the way
        nearest = min(known, key=lambda pair: pair[0])[1]
        tried = [layout for layout in _candidates(times, [nearest]) if layout.teacher][:2]
    for layout in tried:
        smaller = replace(layout, micro_batch_size=max(1, layout.micro_batch_size // 2))
        for one in dict.fromkeys((layout, smaller)):
            memory = scaled.planned(one)
            if memory.total <= room:
                return one, memory
    return None


def _candidates(times: Times, found: list[Layout]) -> list[Layout]:
    """The fastest, with a teacher's layout of its own where that is worth it."""
    if times.whole.teacher_model is None:
        return found
    timed: list[tuple[float, Layout]] = []
    for layout in found:
        for variant in with_teachers(layout, times.config, times.card.per_node):
            plain = variant.teacher is None and variant.teacher_rows == 0
            try:
                timed.append((times.seconds(variant) * (WORTH if plain else 1.0), variant))
            except LayoutError:  # the teacher cannot be split so
                continue
    timed.sort(key=lambda pair: pair[0])
    return [layout for _, layout in timed[: 2 * MOST_TRIED]]
