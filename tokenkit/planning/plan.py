"""The plan of a run: all figures together, for people and as JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tokenkit.cards import GIB, Card
from tokenkit.config import Config
from tokenkit.parallelisms import DTYPES
from tokenkit.planning.layout import Layout, LayoutError
from tokenkit.planning.memory import Memory, Sizes, count_sizes, plan_memory
from tokenkit.planning.models import PlannedModels, Shapes, build_models, open_shapes
from tokenkit.planning.placement import Placement, room_of
from tokenkit.planning.search import find_layout
from tokenkit.planning.speed import (
    Messages,
    StepTime,
    count_messages,
    full_rows,
    hardware_flops,
    planned_flops,
    predict_step,
)

CPU = "cpu"


@dataclass(frozen=True)
class Option:
    """A layout and what it costs.

    Attributes:
        time: None on a CPU, whose speed is not in a table.
    """

    layout: Layout
    memory: Memory
    messages: Messages
    time: StepTime | None


@dataclass(frozen=True)
class Plan:
    """A run on some devices.

    Attributes:
        card: None for CPUs.
        room: bytes that a rank can use.
        model_flops, hardware_flops: of a step, all ranks together, rows of full length.
        wished: the layout that the settings say; None if that is none (see ``problem``).
        better: one that fits, where the wished one does not.
    """

    config: Config
    world_size: int
    card: Card | None
    room: float
    shapes: Shapes
    sizes: Sizes
    model_flops: float
    hardware_flops: float
    wished: Option | None
    problem: str
    better: Option | None

    @property
    def best(self) -> Option | None:
        """What to run: the wished layout if it fits."""
        if self.wished is not None and self.wished.memory.total <= self.room:
            return self.wished
        return self.better

    def hours(self, option: Option) -> float | None:
        """Of all steps."""
        if option.time is None:
            return None
        return option.time.total * self.config.training.steps / 3600

    def as_json(self) -> dict[str, Any]:
        """Bytes, FLOPs and seconds."""
        return {
            "name": self.config.job.name,
            "world_size": self.world_size,
            "device": CPU if self.card is None else self.card.name,
            "room": self.room,
            "parameters": vars(self.sizes),
            "shapes_from_table": list(self.shapes.guessed),
            "model_flops": self.model_flops,
            "hardware_flops": self.hardware_flops,
            "fits": self.best is not None and self.best is self.wished,
            "problem": self.problem,
            "settings": self._option(self.wished),
            "proposal": self._option(self.better),
        }

    def _option(self, option: Option | None) -> dict[str, Any] | None:
        if option is None:
            return None
        time = option.time
        seconds = None if time is None else {**vars(time), "total": time.total}
        memory = {**option.memory.parts(), "total": option.memory.total}
        return {
            "layout": option.layout.settings(),
            "memory": memory,
            "messages": vars(option.messages),
            "seconds": seconds,
            "hours": self.hours(option),
        }


def make_plan(
    config: Config,
    world_size: int,
    card: Card | None,
    efficiency: float | None = None,
    search: bool = False,
) -> Plan:
    """Plan a run; nothing is loaded or downloaded.

    Args:
        card: None: CPUs.
        efficiency: share of the card's peak, if it was measured.
        search: look for a faster layout, too, where the wished one fits.

    Raises:
        ConfigError, ModelError: if models or tokenizers are not here, or no plan can be made.
    """
    shapes = open_shapes(config)
    whole = build_models(config, shapes, DTYPES[config.training.dtype])
    device = CPU if card is None else card.name
    room = room_of(CPU, world_size) if card is None else card.memory

    def option(layout: Layout, memory: Memory) -> Option:
        settings = layout.applied(config)
        models = build_models(settings, shapes, DTYPES[config.training.dtype], layout)
        placement = Placement.of(settings, models, layout, device)
        messages = count_messages(settings, models, layout, placement)
        time = card and predict_step(settings, whole, layout, messages, card, efficiency)
        return Option(layout, memory, messages, time or None)

    wished, problem, better = None, "", None
    try:
        layout = Layout.of(config, world_size)
        wished = option(layout, plan_memory(config, shapes, layout, device))
    except LayoutError as error:
        problem = str(error)
    if wished is not None and wished.memory.total > room:
        problem = f"a rank needs {wished.memory.total / GIB:.1f} GiB; {device} has {room / GIB:.1f}"
    if (problem or search) and card is not None:
        found = find_layout(config, shapes, whole, card, world_size)
        better = None if found is None else option(*found)
    best = wished if not problem else better
    flops = _step_flops(config, whole, best or wished)
    return Plan(
        config, world_size, card, room, shapes, count_sizes(whole), *flops, wished, problem, better
    )


def _step_flops(
    config: Config, models: PlannedModels, option: Option | None
) -> tuple[float, float]:
    """Model and hardware FLOPs of a step."""
    layout = option.layout if option else Layout(1, 1, 1, config.training.batch_size, "none")
    settings = layout.applied(config)
    flops = planned_flops(settings, models, layout)
    return flops.model(*full_rows(config)), hardware_flops(settings, models, layout)
