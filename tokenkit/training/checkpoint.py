"""Checkpoints that survive a crash at any moment.

A checkpoint is written into a folder named ``….partial`` and renamed when every rank has
finished, so a folder called ``step-N`` is always whole. Only what training changes is saved:
trainable parameters and optimizer state (sharded, by ``torch.distributed.checkpoint``), and per
rank the random state; beside it, a model's persistent buffers: constants that would have to be
computed again to the last bit. Where the data go on follows from the step.
"""

from __future__ import annotations

import json
import logging
import random
import re
import shutil
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException

from tokenkit.config.schema import CheckpointConfig
from tokenkit.errors import CheckpointError
from tokenkit.log import logger
from tokenkit.parallelisms import Parallel
from tokenkit.parallelisms.fsdp import reshard
from tokenkit.training.finite_state import refuse_not_finite
from tokenkit.training.optimizer import trainable_parameters


def step_folder(root: Path, step: int) -> Path:
    return root / f"step-{step:08d}"


def list_steps(root: Path) -> list[int]:
    """Steps with a whole checkpoint, ascending."""
    names = [path.name for path in root.glob("step-*")] if root.is_dir() else []
    return sorted(int(m[1]) for name in names if (m := re.fullmatch(r"step-(\d+)", name)))


def tensors_to_save(model: nn.Module, optimizer: torch.optim.Optimizer | None) -> dict[str, Tensor]:
    """``model.<name>`` and ``optimizer.<name>.<moment>``; Adam's moments are created if missing."""
    reshard(model)
    persistent = model.state_dict().keys()
    parameters = trainable_parameters(model)
    tensors = {f"model.{name}": p.detach() for name, p in parameters.items()}
    tensors |= {f"model.{name}": b for name, b in model.named_buffers() if name in persistent}
    if optimizer is None:
        return tensors
    for name, parameter in parameters.items():
        state = optimizer.state[parameter]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32)
            state["exp_avg"] = torch.zeros_like(parameter.detach())
            state["exp_avg_sq"] = torch.zeros_like(parameter.detach())
        for moment in ("step", "exp_avg", "exp_avg_sq"):
            tensors[f"optimizer.{name}.{moment}"] = state[moment]
    return tensors


def random_state(device: torch.device) -> dict[str, Any]:
    """State of every random generator of this process."""
    drawn: Any = np.random.get_state()
    name, keys, position, has_gauss, gauss = drawn
    state = {
        "python": random.getstate(),
        "numpy": (name, keys.tolist(), position, has_gauss, gauss),
        "torch": torch.get_rng_state(),
    }
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def restore_random_state(state: dict[str, Any], device: torch.device) -> None:
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)


class Checkpointer:
    """Saves and restores a run's state under ``output_dir/checkpoints``."""

    def __init__(
        self,
        config: CheckpointConfig,
        output_dir: Path,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        parallel: Parallel,
        extra: dict[str, Tensor] | None = None,
    ) -> None:
        """``extra`` tensors are saved, and changed in place on loading; equal on all ranks."""
        self.config = config
        self.root = output_dir / "checkpoints"
        self.model, self.optimizer = model, optimizer
        self.extra = extra or {}
        self.device = parallel.device
        self._pending: tuple[int, Future] | None = None
        # Its own group: an asynchronous save must not interleave with training's collectives.
        self._group = dist.new_group(backend="gloo")
        # A rank that fails later (bad data, say) must not break the others' connecting.
        dist.barrier(self._group)

    def _tensors(self) -> dict[str, Tensor]:
        extra = {f"extra.{name}": tensor for name, tensor in self.extra.items()}
        return tensors_to_save(self.model, self.optimizer) | extra

    @property
    def rank(self) -> int:
        return dist.get_rank()

    def save(self, step: int) -> None:
        """Write a checkpoint of the state after ``step`` optimizer steps.

        Raises:
            TrainingError: on all ranks, if a tensor is not finite; nothing is written then.
        """
        if not self.config.enable:
            return
        self.finish()
        refuse_not_finite(self._tensors(), step, self._group)
        partial = step_folder(self.root, step).with_suffix(".partial")
        if self.rank == 0:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
        dist.barrier(self._group)
        torch.save({"random": random_state(self.device)}, partial / f"rank-{self.rank:05d}.pt")
        if self.rank == 0:
            state = {"step": step, "ranks": dist.get_world_size()}
            (partial / "train_state.json").write_text(json.dumps(state))
        tensors = self._tensors()
        writer = dcp.FileSystemWriter(partial, sync_files=True)
        if self.config.async_mode == "async":
            future = dcp.async_save(tensors, storage_writer=writer, process_group=self._group)
            self._pending = (step, future)
        else:
            dcp.save(tensors, storage_writer=writer, process_group=self._group)
            self._complete(step)

    def finish(self) -> None:
        """Wait for an asynchronous save and make it visible."""
        if self._pending is not None:
            step, future = self._pending
            self._pending = None
            future.result()
            self._complete(step)

    def _complete(self, step: int) -> None:
        dist.barrier(self._group)
        if self.rank == 0:
            folder = step_folder(self.root, step)
            if folder.exists():  # the same step again, after a resume from an earlier one
                shutil.rmtree(folder)
            folder.with_suffix(".partial").rename(folder)
            self._drop_old()
        dist.barrier(self._group)

    def _drop_old(self) -> None:
        keep = self.config.keep_latest_k
        for step in list_steps(self.root)[:-keep] if keep else []:
            shutil.rmtree(step_folder(self.root, step))

    def load(self) -> int:
        """Restore the checkpoint that ``checkpoint.load_step`` names (-1: the latest).

        Returns:
            The step to continue from (0 if there is no checkpoint).

        Raises:
            CheckpointError: if the named checkpoint is missing or damaged.
        """
        steps = list_steps(self.root) if self.config.enable else []
        wanted = self.config.load_step
        if wanted == -1 and not steps:
            return 0
        step = steps[-1] if wanted == -1 else wanted
        if step not in steps:
            known = ", ".join(map(str, steps)) or "none"
            raise CheckpointError(
                f"checkpoint.load_step = {step}: no such checkpoint in '{self.root}' "
                f"(there: {known})"
            )
        folder = step_folder(self.root, step)
        load_tensors(folder, self._tensors())
        self._load_random_state(folder)
        logger.info(f"resumed from {folder}")
        return step

    def _load_random_state(self, folder: Path) -> None:
        try:
            saved = json.loads((folder / "train_state.json").read_text())
            if saved.get("ranks") != dist.get_world_size():
                logger.warning("another number of ranks than the checkpoint's: random state is new")
                return
            path = folder / f"rank-{self.rank:05d}.pt"
            with torch.serialization.safe_globals([]):
                state = torch.load(path, weights_only=True)
        except Exception as error:
            raise CheckpointError(f"checkpoint '{folder}' is damaged: {error}") from error
        restore_random_state(state["random"], self.device)


def load_tensors(folder: Path, tensors: dict[str, Tensor]) -> None:
    """Read a checkpoint's tensors in place.

    Raises:
        CheckpointError: if a file is damaged, or names or shapes do not fit the model.
    """
    logging.disable(logging.CRITICAL)  # the reader logs tracebacks; one clear line follows
    try:
        dcp.load(tensors, storage_reader=dcp.FileSystemReader(folder))
    except (Exception, CheckpointException) as error:  # the latter is no Exception
        reason = str(error).strip().splitlines()[-1].strip() if str(error).strip() else repr(error)
        raise CheckpointError(
            f"checkpoint '{folder}' is damaged or of another model ({reason}); delete that folder "
            "to resume from an earlier one"
        ) from error
    finally:
        logging.disable(logging.NOTSET)
