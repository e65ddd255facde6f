"""A plan as a page of text, at most 100 columns wide."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from tokenkit.cards import GIB
from tokenkit.errors import one_line
from tokenkit.planning.layout import Degrees, Layout, section_of
from tokenkit.planning.plan import CPU, Option, Plan

WIDTH = 100
PARTS = {
    "student": "student's weights",
    "teacher": "teacher's weights",
    "gathered": "weights joined for use",
    "optimizer": "optimizer state",
    "gradients": "gradients",
    "activations": "activations",
    "working": "logit blocks, temporaries",
    "framework": "CUDA, NCCL, fragments",
}


def _degrees(place: Layout | Degrees | None) -> str:
    return "" if place is None else f"{place.replicate} x {place.shard} x {place.tp}"


MESSAGES = {
    "gathers": "student's weights",
    "teacher_gathers": "teacher's weights",
    "reductions": "gradients, within a copy",
    "copies": "gradients, among copies",
    "tensor_parallel": "within layers",
    "context_parallel": "keys, values, within a context",
    "teacher_activations": "within the teacher's passes",
    "measured": "gradients that are measured",
}
LAYOUT: dict[str, Callable[[Layout], Any]] = {
    "rows a micro-batch": lambda layout: layout.micro_batch_size,
    "replicate x shard x tp": _degrees,
    "context parallel": lambda layout: layout.context,
    "teacher's replicate x shard x tp": lambda layout: _degrees(layout.teacher),
    "teacher's rows a pass": lambda layout: layout.teacher_rows,
    "activations recomputed": lambda layout: layout.recompute,
}
# Said only where it is not so.
USUAL = {"context parallel": 1, "teacher's replicate x shard x tp": "", "teacher's rows a pass": 0}


def in_units(number: float) -> str:
    """3,212,749,824 as 3.21 B."""
    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K")):
        if number >= size:
            return f"{number / size:.2f} {unit}"
    return f"{number:.0f}"


def describe(plan: Plan) -> str:
    """All that is known of a run before it starts."""
    config, training = plan.config, plan.config.training
    device = CPU if plan.card is None else plan.card.name
    sizes = plan.sizes
    lines = [
        f"{config.job.name} on {plan.world_size} x {device}, {plan.room / GIB:.0f} GiB a rank",
        f"student {in_units(sizes.total)} parameters, {in_units(sizes.trained)} trained; teacher "
        f"{in_units(sizes.teacher)} of its own",
        f"a step: {training.batch_size} rows of {training.max_student_length} tokens (teacher "
        f"{training.max_teacher_length}), {plan.model_flops / 1e12:,.1f} TFLOP of the models, "
        f"{plan.hardware_flops / 1e12:,.1f} done",
    ]
    if plan.shapes.guessed:
        lines.append(f"shapes from the planner's table: {', '.join(plan.shapes.guessed)}")
    lines.append("")
    columns = {"as set": plan.wished, "proposal": plan.better}
    shown = {name: option for name, option in columns.items() if option is not None}
    if shown:
        lines += _table(plan, shown)
    lines += ["", *_verdict(plan)]
    return "\n".join(one_line(line, WIDTH) if "  " not in line else line for line in lines)


def _row(name: str, cells: list[str]) -> str:
    return f"  {name:<32}" + "".join(f"{cell:>16}" for cell in cells)


def _layouts(options: list[Option]) -> Iterator[str]:
    for title, value in LAYOUT.items():
        cells = [value(option.layout) for option in options]
        if any(cell != USUAL.get(title) for cell in cells):
            yield _row(title, [str(cell or "") for cell in cells])


def _table(plan: Plan, shown: dict[str, Option]) -> list[str]:
    options = list(shown.values())
    lines = [_row("", list(shown)), *_layouts(options)]
    lines.append("  memory a rank, GiB")
    for part, title in PARTS.items():
        values = [getattr(option.memory, part) for option in options]
        if any(values):
            lines.append(_row(f"  {title}", [f"{value / GIB:.2f}" for value in values]))
    lines.append(_row("  all", [f"{option.memory.total / GIB:.2f}" for option in options]))
    sent = []
    for part, title in MESSAGES.items():
        values = [getattr(option.messages, part) for option in options]
        if max(values) >= 0.005e9:
            sent.append(_row(f"  {title}", [f"{value / 1e9:.2f}" for value in values]))
    if sent:
        lines += ["  sent a rank and step, GB", *sent]
    if plan.card is None:
        return lines
    times = [option.time for option in options if option.time is not None]
    lines.append("  seconds a step (estimate)")
    for part, title in (
        ("compute", "compute"), ("hidden", "messages beside it"),
        ("exposed", "messages waited for"), ("update", "optimizer"), ("total", "all"),
    ):  # fmt: skip
        values = [getattr(time, part) for time in times]
        if max(values) >= 0.0005:
            lines.append(_row(f"  {title}", [f"{value:.3f}" for value in values]))
    peak = plan.card.peak(plan.config.training.dtype) * plan.world_size
    lines.append(_row("MFU", [f"{plan.model_flops / peak / time.total:.1%}" for time in times]))
    steps = f"hours for {plan.config.training.steps:,} steps"
    lines.append(_row(steps, [f"{plan.hours(option) or 0:.1f}" for option in options]))
    return lines


def _verdict(plan: Plan) -> list[str]:
    better = plan.better
    if plan.problem:
        lines = [f"does not fit: {plan.problem}"]
        if better is None:
            return [
                *lines,
                "no layout of these ranks fits: use more of them or larger ones, shorter rows, "
                "student.train = lora, or a teacher on disk (tokenkit cache-teacher)",
            ]
        return [*lines, "this does:", *_changes(plan, better)]
    if better is None or plan.wished is None or not _faster(better, plan.wished):
        return ["fits."]
    return ["fits; this should be faster:", *_changes(plan, better)]


def _faster(one: Option, other: Option) -> bool:
    return one.time is not None and other.time is not None and one.time.total < other.time.total


def _changes(plan: Plan, option: Option) -> list[str]:
    """Settings of a layout that are not the config's, as they are typed."""
    lines = []
    wished = {} if plan.wished is None else plan.wished.layout.settings()
    for name, value in option.layout.settings().items():
        section, key = section_of(plan.config, name)
        if wished.get(name, getattr(section, key)) != value:
            lines.append(f"  --{name} {value}")
    return lines


def summary(plan: Plan) -> str:
    """One line, as recipes carry it."""
    device = CPU if plan.card is None else plan.card.name.upper()
    option = plan.best
    if option is None:
        return f"does not fit on {plan.world_size} x {device}"
    hours = plan.hours(option)
    time = "" if hours is None else f", {hours:.0f} hours" if hours >= 2 else f", {hours:.1f} hours"
    return f"{option.memory.total / GIB:.0f} GiB a GPU{time} on {plan.world_size} x {device}"
