"""A teacher cache being written, shard by shard, by one process or many.

Until it is whole it lies under the name ``….partial``: the plan of its shards, the shards, and what
each writer has finished, a line a shard. Whoever goes on after a kill reads those lines; a shard
without one is written again.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tokenkit.data.stretches import Stretch
from tokenkit.errors import ConfigError, DataError
from tokenkit.io import partial_path
from tokenkit.training.checkpoint.files import write_json
from tokenkit.training.teacher_cache.meta import META, difference
from tokenkit.training.teacher_cache.shards import Plan, ShardScores, damage, size_problem

PLAN, FINISHED = "plan.json", "finished-*.jsonl"
READERS = 8  # files that are hashed at once


class CacheWriter:
    """The cache that becomes ``output``; :meth:`begin` and :meth:`finish` are the first rank's.

    Args:
        writer: number of this process among those that write.
    """

    def __init__(self, output: Path, writer: int) -> None:
        self.output, self.folder = output, partial_path(output)
        self.writer = writer

    def begin(self, meta: dict[str, Any]) -> None:
        """Make the folder, or see that what is in it belongs to the cache that ``meta`` describes.

        Raises:
            ConfigError: if it does not.
            OSError: if it cannot be written.
        """
        plan = self.folder / PLAN
        self.folder.mkdir(parents=True, exist_ok=True)
        if not plan.is_file():
            write_json(plan, meta)
            return
        try:
            found = json.loads(plan.read_text(encoding="utf-8"))
            differs = difference({**found, "shard_rows": meta["shard_rows"]}, meta)
        except (ValueError, AttributeError, TypeError) as error:
            raise ConfigError(f"'{plan}' cannot be read ({error}); {self._way_out}") from error
        if differs:
            raise ConfigError(
                f"'{self.folder}' is part of another cache: {differs}; {self._way_out}"
            )

    @property
    def _way_out(self) -> str:
        return "delete it, or name another --output"

    def open(self) -> None:
        """Read the plan, and which shards are finished."""
        self.meta = json.loads((self.folder / PLAN).read_text(encoding="utf-8"))
        self.plan = Plan(tuple(self.meta["rows"]), self.meta["shard_rows"])
        self.finished = {
            name: entry
            for name, entry in self._entries().items()
            if size_problem(self.folder / name, entry) is None
        }

    def _entries(self) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}
        for path in sorted(self.folder.glob(FINISHED)):
            for line in path.read_text(encoding="utf-8").splitlines():
                try:
                    found |= json.loads(line)
                except ValueError:  # a line that a kill cut short
                    continue
        return found

    @property
    def missing(self) -> list[Stretch]:
        """The shards that were not finished when it was opened."""
        return [s for name, s in self.plan.shards().items() if name not in self.finished]

    def collect(self, stretch: Stretch) -> ShardScores:
        """An empty shard."""
        longest = self.meta["settings"]["training.max_teacher_length"]
        return ShardScores(stretch, self.meta["scores"], longest)

    def write(self, stretch: Stretch, scores: ShardScores) -> None:
        """Write a shard, and that it is finished, to the disk.

        Raises:
            OSError: if it cannot be written.
        """
        name = self.plan.name(stretch)
        entry = {name: scores.write(self.folder / name)}
        with (self.folder / FINISHED.replace("*", f"{self.writer:05d}")).open("a") as file:
            file.write("\n" + json.dumps(entry) + "\n")  # apart from a line that was cut short
            file.flush()
            os.fsync(file.fileno())

    def finish(self, say: Callable[[int], object] = lambda count: None) -> dict[str, Any]:
        """Compare all hashes, write ``meta.json`` and give the folder its name; returns the meta.

        Args:
            say: given the number of files that were read since it was last called.

        Raises:
            DataError: if a file is damaged; it is written again by the next attempt.
        """
        entries = self._entries()
        files = {name: entries[name] for name in self.plan.shards()}
        paths = [self.folder / name for name in files]
        with ThreadPoolExecutor(READERS) as pool:
            for path, problem in zip(paths, pool.map(damage, paths, files.values()), strict=True):
                if problem is not None:
                    path.unlink(missing_ok=True)
                    raise DataError(
                        f"'{self.folder}': {problem}; run the command again to write that part anew"
                    )
                say(1)
        tokens = sum(entry["tokens"] for entry in files.values())
        meta = {**self.meta, "tokens": tokens, "files": files}
        write_json(self.folder / META, meta)
        if self.output.exists():
            self.output.rmdir()
        self.folder.rename(self.output)
        for path in (self.output / PLAN, *self.output.glob(FINISHED)):  # it is whole without them
            path.unlink()
        return meta

    def drop_if_empty(self) -> None:
        """Leave nothing behind that nobody can go on from."""
        if not self._entries():
            shutil.rmtree(self.folder, ignore_errors=True)
