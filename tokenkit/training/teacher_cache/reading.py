"""A teacher cache as the collator reads it, and the teacher that finds it in the batch."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tokenkit.batch import Sequences
from tokenkit.errors import ConfigError, DataError
from tokenkit.models.flops import ModelSize
from tokenkit.models.outputs import Outputs
from tokenkit.training.teacher_cache.meta import NEW
from tokenkit.training.teacher_cache.shards import Plan, Shard, check_of, size_problem

OPEN = 256  # shards that stay mapped: each is a file, and a process has some hundreds


class TeacherScores:
    """Log-probs of rows by their keys; see :class:`tokenkit.data.collate.KnownScores`.

    Sizes of all files are compared at once, the hash of each when it is first read, which is done
    by the processes that prepare batches.

    Args:
        meta: from :func:`~tokenkit.training.teacher_cache.meta.read_meta`.

    Raises:
        ConfigError: if a file is missing or has another size.
    """

    def __init__(self, folder: Path, meta: dict[str, Any]) -> None:
        self.folder, self.files = folder, meta["files"]
        self.plan = Plan(tuple(meta["rows"]), meta["shard_rows"])
        self.rows = {name: len(stretch.places) for name, stretch in self.plan.shards().items()}
        self._open: OrderedDict[str, Shard] = OrderedDict()
        if self.rows.keys() != self.files.keys():
            raise self._damaged(f"its files are not those of {sum(meta['rows'])} rows")
        for name, entry in self.files.items():
            if problem := size_problem(folder / name, entry):
                raise self._damaged(problem)

    def _damaged(self, problem: object) -> ConfigError:
        return ConfigError(f"teacher.cache = '{self.folder}' is damaged: {problem}; {NEW}")

    def look_up(
        self, keys: Sequence[int], rows: Sequence[np.ndarray], width: int
    ) -> dict[str, Tensor]:
        """What the teacher said of rows of ids: fp32 ``[B, width]`` by its name in ``Outputs``.

        At a document's first token, which nothing scores, the boundary's is 0, too.

        Raises:
            ConfigError: if a shard is damaged.
            DataError: if the cache lacks a row, or has another one in its place.
        """
        found = torch.zeros(len(rows), width, 2)
        for number, (key, ids) in enumerate(zip(keys, rows, strict=True)):
            if len(ids) > 1:
                found[number, 1 : len(ids)] = self._row(key, ids)
        token, boundary = found.permute(2, 0, 1).contiguous()
        return {"token_logprob": token, "boundary_logprob": boundary}

    def _row(self, key: int, ids: np.ndarray) -> Tensor:
        place = self.plan.find(key)
        if place is None:
            raise DataError(
                f"teacher.cache = '{self.folder}' lacks a row of this run's data; run "
                "tokenkit cache-teacher again with the same data, lengths, seed and steps"
            )
        name, row = place
        shard = self._shard(name)
        if shard.lengths[row] != len(ids) or shard.checks[row] != check_of(ids):
            raise DataError(
                f"teacher.cache = '{self.folder}' has the scores of other tokens for a row of this "
                f"run's data ({name}, row {row}): its texts or tokenizer have changed; {NEW}"
            )
        return shard.row(row)

    def _shard(self, name: str) -> Shard:
        if name not in self._open:
            try:
                self._open[name] = Shard(self.folder / name, self.files[name], self.rows[name])
            except ConfigError as error:
                raise self._damaged(error) from error
            if len(self._open) > OPEN:
                self._open.popitem(last=False)
        self._open.move_to_end(name)
        return self._open[name]


class CachedTeacher:
    """A :class:`~tokenkit.training.teacher.Teacher` whose scores come with the batch."""

    hf_config = None
    size: ModelSize | None = None

    def __init__(self, known: TeacherScores) -> None:
        self.known: TeacherScores | None = known

    def read(self, seq: Sequences, needs: Collection[str]) -> Outputs:
        return Outputs(seq, **seq.known)
