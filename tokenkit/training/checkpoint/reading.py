"""A checkpoint's tensors, copied into those of a run of any layout."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from tokenkit.errors import CheckpointError
from tokenkit.log import logger
from tokenkit.ops.gradients import local_part
from tokenkit.parallelisms.pieces import Box, box_of
from tokenkit.training.checkpoint.manifest import (
    Checkpoint,
    damage,
    find_checkpoints,
    list_steps,
    read_checkpoint,
)

MODEL_ALONE = (
    "it holds the model alone, so training cannot go on; a new run can begin with it "
    "(checkpoint.initial_load)"
)


@torch.no_grad()
def load_tensors(checkpoint: Checkpoint, tensors: dict[str, Tensor]) -> None:
    """Copy a checkpoint's values into ``tensors``, whole or sharded.

    Raises:
        CheckpointError: if names or shapes do not fit the model, or a file cannot be read.
    """
    _check_fit(checkpoint, tensors)
    with ExitStack() as stack:
        files: dict[str, Any] = {}
        for name, tensor in tensors.items():
            here, local = box_of(tensor), local_part(tensor)
            for file, begin, size in checkpoint.content["tensors"][name]["pieces"]:
                saved = Box(tuple(begin), tuple(size))
                common = saved.common(here)
                if common is None:
                    continue
                try:
                    if file not in files:
                        opened = safe_open(checkpoint.folder / file, framework="pt")
                        files[file] = stack.enter_context(opened)
                    piece = _read(files[file], name, common.within(saved))
                except (SafetensorError, OSError) as error:
                    raise CheckpointError(
                        f"checkpoint '{checkpoint.folder}' is damaged: {file}: {error}"
                    ) from error
                local[common.within(here)].copy_(piece)


def _read(file: Any, name: str, part: tuple[slice, ...]) -> Tensor:
    return file.get_slice(name)[part] if part else file.get_tensor(name)


def _check_fit(checkpoint: Checkpoint, tensors: dict[str, Tensor]) -> None:
    """Raise unless all tensors are there in their shapes, and the model has all that are there."""
    saved = checkpoint.content["tensors"]
    where = f"checkpoint '{checkpoint.folder}' is of another model"
    for name, tensor in tensors.items():
        if name not in saved:
            if name.startswith("optimizer.") and not checkpoint.content["with_optimizer"]:
                raise CheckpointError(f"checkpoint '{checkpoint.folder}': {MODEL_ALONE}")
            raise CheckpointError(f"{where}: it has no tensor '{name}'")
        if saved[name]["shape"] != list(tensor.shape):
            raise CheckpointError(
                f"{where}: '{name}' is {saved[name]['shape']} there and {list(tensor.shape)} here"
            )
    extra = next((n for n in saved if n.startswith("model.") and n not in tensors), None)
    if extra is not None:
        raise CheckpointError(f"{where}: its tensor '{extra}' is not in this one")


def whole_checkpoint(root: Path, step: int = -1, verify: bool = True) -> Checkpoint:
    """The checkpoint of a step (-1: the newest), all of it unless ``verify`` is off.

    A damaged newest one is named in a warning, and the newest whole one is returned.

    Raises:
        CheckpointError: if there is none, or the one asked for is missing or damaged.
    """
    found, problems = find_checkpoints(root)
    wanted = [c for c in found if step in (-1, c.step)]
    if step == -1 and not found and not problems:
        raise CheckpointError(f"'{root}' has no finished checkpoint")
    if step != -1 and not wanted:
        known = ", ".join(map(str, list_steps(root))) or "none"
        detail = next(
            (f" ({p})" for p in problems if f"step-{step:08d}'" in p), f" (there: {known})"
        )
        raise CheckpointError(f"'{root}' has no checkpoint of step {step}{detail}")
    for checkpoint in wanted:
        problem = damage(checkpoint, list(checkpoint.content["files"])) if verify else None
        if problem is None:
            for line in problems:
                logger.warning(line)
            return checkpoint
        problems.append(f"checkpoint '{checkpoint.folder}' is damaged: {problem}")
    raise CheckpointError(no_whole_one(root, problems))


def no_whole_one(root: Path, problems: list[str]) -> str:
    """What to say where every checkpoint is damaged."""
    return (
        f"no whole checkpoint in '{root}', nothing was changed: {problems[0]}"
        + (f" (and {len(problems) - 1} more)" if len(problems) > 1 else "")
        + "; restore one, or train into a new folder"
    )


def open_checkpoint(name: str, verify: bool = True) -> Checkpoint:
    """The newest checkpoint of a run, or the one that ``name`` is the folder of.

    Raises:
        CheckpointError: if there is none or it is damaged.
    """
    folder = Path(name)
    if (folder / "checkpoints").is_dir():
        return whole_checkpoint(folder / "checkpoints", verify=verify)
    if not folder.is_dir():
        beside = sorted(path.name for path in folder.parent.glob("step-*") if path.is_dir())
        there = f" (there: {', '.join(beside[-3:])})" if beside else ""
        raise CheckpointError(
            f"checkpoint.initial_load = '{name}' does not exist; name a run's output directory or "
            f"one of its checkpoints{there}"
        )
    try:
        checkpoint = read_checkpoint(folder)
    except CheckpointError as error:
        raise CheckpointError(
            f"checkpoint.initial_load = '{name}': neither a run's output directory nor a "
            f"checkpoint ({error}); a model folder goes into student.model"
        ) from error
    problem = damage(checkpoint, list(checkpoint.content["files"])) if verify else None
    if problem is not None:
        raise CheckpointError(f"checkpoint.initial_load = '{name}' is damaged: {problem}")
    return checkpoint
