"""Saving a run's state so that a crash at any moment loses at most what came since.

A checkpoint is written into a folder with another name, each rank its own file, and renamed when
all is there. Only what training changes is saved; where the data go on follows from the step.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tokenkit.config import Config
from tokenkit.errors import CheckpointError
from tokenkit.life import restarted
from tokenkit.log import logger
from tokenkit.parallelisms import DTYPES, Parallel
from tokenkit.training.checkpoint.agreement import Agreement
from tokenkit.training.checkpoint.manifest import (
    Checkpoint,
    damage,
    find_checkpoints,
    list_steps,
    read_checkpoint,
    step_folder,
)
from tokenkit.training.checkpoint.random_state import restore_random_state
from tokenkit.training.checkpoint.reading import (
    MODEL_ALONE,
    load_tensors,
    no_whole_one,
    open_checkpoint,
)
from tokenkit.training.checkpoint.state import tensors_to_save
from tokenkit.training.checkpoint.writing import Background, Writing
from tokenkit.training.data_identity import changed_source, data_identity
from tokenkit.training.finite_state import refuse_not_finite


class Checkpointer:
    """Saves and restores a run's state under ``output_dir/checkpoints``."""

    def __init__(
        self,
        config: Config,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        parallel: Parallel,
        extra: dict[str, Tensor] | None = None,
    ) -> None:
        """``extra`` tensors are saved, and changed in place on loading; equal on all ranks."""
        self.config, self.settings = config, config.checkpoint
        self.root = Path(config.job.output_dir) / "checkpoints"
        self.model, self.optimizer = model, optimizer
        self.extra = extra or {}
        self.parallel = parallel
        self._ranks = Agreement(parallel)
        self._pending: Background | None = None
        self._data: list[dict[str, Any]] = []
        self._damaged: set[Path] = set()
        self._saved_at = time.monotonic()

    # Saving

    @property
    def overdue(self) -> bool:
        """Whether rank 0's clock says that it is time, or the last save failed; all must know."""
        if self._pending is not None and self._pending.failed:
            return True
        minutes = self.settings.interval_minutes
        waited = time.monotonic() - self._saved_at
        return bool(minutes) and self._ranks.rank == 0 and waited >= 60 * minutes

    def due(self, step: int, last: bool, overdue: bool) -> bool:
        """Whether to save after ``step`` steps."""
        return self.settings.enable and (step % self.settings.interval == 0 or last or overdue)

    def save(self, step: int, last: bool = False) -> None:
        """Write a checkpoint of the state after ``step`` optimizer steps.

        Raises:
            DiskError: on all ranks, if one of them cannot write; what was saved before stays.
            TrainingError: on all ranks, if a tensor is not finite.
        """
        self.finish()
        self._saved_at = time.monotonic()
        alone = last and self.settings.last_save_model_only
        tensors = self._tensors(with_optimizer=not alone)
        refuse_not_finite(tensors, step, self._ranks)
        if alone:
            dtype = DTYPES[self.settings.export_dtype]
            tensors = {
                name: t.to(dtype) if t.is_floating_point() else t for name, t in tensors.items()
            }
        background = self.settings.async_mode == "async"
        write = Writing(step, self.root, self._ranks, self.parallel, self.settings.keep_latest_k)
        write.stage(tensors, copy=background)
        write.damaged = self._damaged
        write.content |= {"data": self._data, "with_optimizer": not alone}
        if background:
            self._pending = Background(write)
        else:
            write()

    def finish(self) -> None:
        """Wait for an asynchronous save.

        Raises:
            CheckpointError: if it failed.
        """
        if self._pending is not None:
            pending, self._pending = self._pending, None
            pending.result()

    def _tensors(self, with_optimizer: bool) -> dict[str, Tensor]:
        tensors = tensors_to_save(self.model, self.optimizer if with_optimizer else None)
        extra = {f"extra.{name}": tensor for name, tensor in self.extra.items()}
        return tensors | (extra if with_optimizer else {})

    # Loading

    def load(self) -> int:
        """Restore the checkpoint that ``checkpoint.load_step`` names (-1: the newest whole one).

        Without any, a new run begins, from ``checkpoint.initial_load`` if that is set.

        Returns:
            The step to continue from (0 if there is no checkpoint).

        Raises:
            CheckpointError: on all ranks, if the named checkpoint is missing or damaged, or all
                are; if the data are not what they were; if ranks see different folders.
        """
        self._data = self._ranks.first(lambda: data_identity(self.config))
        checkpoint = self._choose() if self.settings.enable else None
        if checkpoint is None:
            self._load_initial()
            return 0
        self._ranks.first(lambda: self._check_data(checkpoint))
        tensors = self._tensors(checkpoint.content["with_optimizer"])
        if "extra.balance.norms" not in checkpoint.content["tensors"]:  # of an earlier version
            tensors.pop("extra.balance.norms", None)  # measured again within the interval
        self._ranks.together(lambda: load_tensors(checkpoint, tensors))
        self._ranks.together(lambda: self._load_random_state(checkpoint))
        logger.info(f"resumed from {checkpoint.folder}")
        return checkpoint.step

    def _choose(self) -> Checkpoint | None:
        """The checkpoint to go on from, as all ranks agree; None without any."""
        wanted = -1 if restarted() else self.settings.load_step
        found, problems = self._ranks.first(lambda: find_checkpoints(self.root))
        if wanted != -1:
            return self._named(wanted, found, problems)
        for checkpoint in found:
            problem = self._damage(checkpoint)
            if problem is not None:
                problems.append(f"checkpoint '{checkpoint.folder}' is damaged: {problem}")
                self._damaged.add(checkpoint.folder)
            elif self._goes_on(checkpoint):
                for line in problems:
                    logger.warning(f"{line}; {checkpoint.folder.name} is used")
                return checkpoint
            else:
                problems.append(f"checkpoint '{checkpoint.folder}': {MODEL_ALONE}")
        if problems:
            raise CheckpointError(no_whole_one(self.root, problems))
        return None

    def _named(self, step: int, found: list[Checkpoint], problems: list[str]) -> Checkpoint:
        """The checkpoint that ``checkpoint.load_step`` names."""
        where = f"checkpoint.load_step = {step}"
        checkpoint = next((c for c in found if c.step == step), None)
        if checkpoint is None:
            known = ", ".join(map(str, list_steps(self.root))) or "none"
            name = step_folder(self.root, step).name
            reason = next((line for line in problems if f"{name}'" in line), f"there: {known}")
            raise CheckpointError(f"{where}: no such checkpoint in '{self.root}' ({reason})")
        problem = self._damage(checkpoint)
        if problem is not None:
            raise CheckpointError(f"{where}: '{checkpoint.folder}' is damaged: {problem}")
        if not self._goes_on(checkpoint):
            raise CheckpointError(f"{where}: '{checkpoint.folder}': {MODEL_ALONE}")
        return checkpoint

    def _goes_on(self, checkpoint: Checkpoint) -> bool:
        """Whether training can go on from it, or there is nothing left to do."""
        finished = checkpoint.step >= self.config.training.steps
        return finished or checkpoint.content["with_optimizer"]

    def _damage(self, checkpoint: Checkpoint) -> str | None:
        """What is wrong with a checkpoint; each rank reads some of its files."""
        names = sorted(checkpoint.content["files"])[self._ranks.rank :: self._ranks.ranks]
        problem = None
        try:
            if read_checkpoint(checkpoint.folder).content != checkpoint.content:
                problem = (
                    f"rank {self._ranks.rank} sees another manifest than rank 0: no shared folder?"
                )
        except CheckpointError as error:
            problem = f"rank {self._ranks.rank} cannot read what rank 0 reads: {error}"
        if problem is None and self.settings.verify:
            problem = damage(checkpoint, names)
        return next(filter(None, self._ranks.gather(problem)), None)

    def _check_data(self, checkpoint: Checkpoint) -> None:
        changed = changed_source(checkpoint.content["data"], self._data)
        if changed is not None:
            raise CheckpointError(
                f"data.train: {changed} when '{checkpoint.folder}' was written, so its rows would "
                "not go on; put it back, or train into a new folder with checkpoint.initial_load"
            )

    def _load_random_state(self, checkpoint: Checkpoint) -> None:
        if checkpoint.content["data_ranks"] != self.parallel.dp_size:
            return  # the seed's: nothing that ranks draw may differ by their number
        path = checkpoint.folder / f"random-{self.parallel.dp_rank:05d}.json"
        try:
            restore_random_state(json.loads(path.read_text()), self.parallel.device)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"checkpoint '{checkpoint.folder}' is damaged: {path.name} ({error})"
            ) from error

    def _load_initial(self) -> None:
        """Begin a new run where another one is."""
        name = self.settings.initial_load
        if not name:
            return
        with_optimizer = self.settings.initial_load_optimizer
        # Verified before the output directory was prepared.
        checkpoint = self._ranks.first(lambda: open_checkpoint(name, verify=False))
        tensors = self._tensors(with_optimizer)
        # What balances losses begins anew, if the other run balanced them otherwise.
        saved = checkpoint.content["tensors"]
        tensors = {
            name: tensor
            for name, tensor in tensors.items()
            if not name.startswith("extra.") or name in saved
        }
        self._ranks.together(lambda: load_tensors(checkpoint, tensors))
        what = "weights and optimizer" if with_optimizer else "weights"
        logger.info(f"{what} of {checkpoint.folder}, step {checkpoint.step}")
