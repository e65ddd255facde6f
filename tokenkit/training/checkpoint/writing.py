"""One checkpoint on its way to the disk, in the training loop or beside it."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import Any

from torch import Tensor

from tokenkit.errors import DiskError
from tokenkit.failure import SAVING
from tokenkit.ops.gradients import local_part
from tokenkit.parallelisms import Parallel
from tokenkit.parallelisms.pieces import box_of, saved_here
from tokenkit.training.checkpoint.agreement import Agreement
from tokenkit.training.checkpoint.files import write_json, write_safetensors
from tokenkit.training.checkpoint.folders import drop_old, move_in, new_partial
from tokenkit.training.checkpoint.manifest import (
    FORMAT,
    find_checkpoints,
    step_folder,
    write_manifest,
)
from tokenkit.training.checkpoint.random_state import random_state


class Writing:
    """Each rank writes its pieces into a file, rank 0 the manifest.

    Args:
        keep: number of checkpoints to keep (0: all).

    Attributes:
        content: what the manifest says beside files and tensors.
        damaged: checkpoints that do not count among those to keep.
    """

    def __init__(
        self, step: int, root: Path, ranks: Agreement, parallel: Parallel, keep: int
    ) -> None:
        self.step, self.root, self.keep = step, root, keep
        self.ranks, self.parallel = ranks, parallel
        self.content: dict[str, Any] = {
            "format": FORMAT, "step": step, "ranks": ranks.ranks, "data_ranks": parallel.dp_size
        }  # fmt: skip
        self.damaged: set[Path] = set()
        self.random = random_state(parallel.device)
        self.mine: dict[str, Tensor] = {}
        self.where: dict[str, list[list[int]]] = {}
        self.shapes: dict[str, list[int]] = {}

    def stage(self, tensors: dict[str, Tensor], copy: bool) -> None:
        """Take this rank's pieces; a ``copy`` if training goes on while they are written."""
        for name, tensor in tensors.items():
            self.shapes[name] = list(tensor.shape)
            if saved_here(tensor, self.ranks.rank):
                self.mine[name] = local_part(tensor).detach().to("cpu", copy=copy)
                self.where[name] = [list(part) for part in box_of(tensor)]

    def __call__(self) -> None:
        """Write.

        Raises:
            DiskError: on all ranks, if one of them cannot; what was saved before stays.
        """
        partial = self.ranks.first(lambda: new_partial(self.root, self.step))
        files: dict[str, dict[str, Any]] = {}
        reason = None
        try:
            files = self._write_files(partial)
        except OSError as error:
            reason = f"rank {self.ranks.rank}: {error}"
        found = self.ranks.at_first((files, reason))
        written = {name: entry for part, _ in found for name, entry in part.items()}
        failed = next((reason for _, reason in found if reason), None)
        self.ranks.first(lambda: self._complete(partial, written, failed))

    def _write_files(self, partial: Path) -> dict[str, dict[str, Any]]:
        """This rank's files: hash, size and pieces of tensors by name."""
        files: dict[str, dict[str, Any]] = {}
        if self.mine:
            name = f"rank-{self.ranks.rank:05d}.safetensors"
            files[name] = {
                "hash": write_safetensors(partial / name, self.mine), "pieces": self.where
            }  # fmt: skip
        if self.parallel.is_first_of_rows:
            name = f"random-{self.parallel.dp_rank:05d}.json"
            files[name] = {"hash": write_json(partial / name, self.random), "pieces": {}}
        for name, entry in files.items():
            entry["bytes"] = (partial / name).stat().st_size
        return files

    def _complete(self, partial: Path, written: dict[str, Any], failed: str | None) -> None:
        """What rank 0 does when all ranks have written, or one could not."""
        try:
            if failed is not None:
                raise OSError(failed)
            write_manifest(partial, self._whole_content(written))
            move_in(partial, step_folder(self.root, self.step))
            drop_old(self.root, self.keep, self.damaged)
        except OSError as error:
            found, _ = find_checkpoints(self.root)
            left = f"that of step {found[0].step} is whole" if found else "there is none before it"
            raise DiskError(
                f"the checkpoint of step {self.step} cannot be written into '{self.root}' "
                f"({error}); {left}"
            ) from error

    def _whole_content(self, written: dict[str, Any]) -> dict[str, Any]:
        """The manifest's."""
        tensors = {
            name: {
                "shape": shape,
                "pieces": [
                    [file, *entry["pieces"][name]]
                    for file, entry in sorted(written.items())
                    if name in entry["pieces"]
                ],
            }
            for name, shape in self.shapes.items()
            if math.prod(shape)
        }
        found, _ = find_checkpoints(self.root)
        serial = 1 + max((checkpoint.serial for checkpoint in found), default=0)
        files = {name: {k: written[name][k] for k in ("bytes", "hash")} for name in written}
        return {**self.content, "serial": serial, "files": files, "tensors": tensors}


class Background:
    """A call in a thread, whose error comes with the result."""

    def __init__(self, function: Callable[[], None]) -> None:
        self._function = function
        self._error: BaseException | None = None
        self._thread = Thread(target=self._run, name=SAVING)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._function()
        except BaseException as error:
            self._error = error

    @property
    def failed(self) -> bool:
        return self._error is not None

    def result(self) -> None:
        """Wait for its end; raise its error."""
        self._thread.join()
        if self._error is not None:
            raise self._error
