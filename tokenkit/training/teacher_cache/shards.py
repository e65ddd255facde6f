"""One shard of a teacher cache: the scores of consecutive rows, in one safetensors file.

``scores`` ``[N, 2]`` joins the rows' places from the second on, each with the log-prob of its token
and that of a boundary after it; nothing scores a document's first token. ``lengths`` ``[R]`` are in
tokens, the first among them, and ``checks`` ``[R]`` a byte of a hash of the ids: rows of another
tokenizer or text are found out within a few.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from tokenkit.batch import Batch
from tokenkit.data.order import place_of
from tokenkit.data.stretches import Stretch
from tokenkit.errors import ConfigError, ModelError
from tokenkit.models.outputs import Outputs
from tokenkit.training.checkpoint.files import hash_of, write_safetensors

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Plan:
    """Which rows are in which shard.

    Attributes:
        rows: of each source, from its first place on.
        shard_rows: of each shard but a source's last.
    """

    rows: tuple[int, ...]
    shard_rows: int

    def shards(self) -> dict[str, Stretch]:
        """All shards by file name, in order."""
        size = self.shard_rows
        return {
            _name(source, begin // size): Stretch(source, range(begin, min(begin + size, rows)))
            for source, rows in enumerate(self.rows)
            for begin in range(0, rows, size)
        }

    def name(self, stretch: Stretch) -> str:
        """File name of the shard that begins with a stretch."""
        return _name(stretch.source, stretch.places.start // self.shard_rows)

    def find(self, key: int) -> tuple[str, int] | None:
        """Shard of a row, and the row's number in it; None if it has none."""
        source, place = place_of(key)
        if not 0 <= source < len(self.rows) or place >= self.rows[source]:
            return None
        number, row = divmod(place, self.shard_rows)
        return _name(source, number), row


def _name(source: int, number: int) -> str:
    return f"{source:03d}-{number:06d}.safetensors"


def check_of(ids: np.ndarray) -> int:
    """A byte that depends on all of a row's ids."""
    return zlib.crc32(np.ascontiguousarray(ids, dtype=np.int32).tobytes()) & 0xFF


class ShardScores:
    """Collects the scores of a shard's rows, in any order.

    Args:
        longest: tokens that a row may have.
    """

    def __init__(self, stretch: Stretch, dtype: str, longest: int) -> None:
        rows = len(stretch.places)
        self.first = stretch.places.start
        self.dtype = DTYPES[dtype]
        # Half as long a type for what is usual: these are bytes of every row.
        self.lengths = torch.zeros(rows, dtype=torch.int16 if longest < 2**15 else torch.int32)
        self.checks = torch.zeros(rows, dtype=torch.uint8)
        self.scores = [torch.zeros(0, 2, dtype=self.dtype)] * rows

    def add(self, batch: Batch, outputs: Outputs) -> None:
        """Take a teacher's log-probs of some rows.

        Raises:
            ModelError: naming the first row with a log-prob that is not finite.
        """
        pair = torch.stack([outputs.token_logprob, outputs.boundary_logprob], -1)
        pair = pair.to("cpu", self.dtype)  # [B, T, 2]
        ids, lengths = batch.student.ids.numpy(), batch.student.mask.sum(1).tolist()
        for number, (key, length) in enumerate(zip(batch.keys, lengths, strict=True)):
            scores = pair[number, 1 : max(1, length)].clone()
            if not scores.isfinite().all():
                raise ModelError(
                    f"{batch.places[number]}: the teacher's log-probs of this row are not finite; "
                    "it is not written (training.dtype float32 overflows later than bfloat16)"
                )
            row = place_of(key)[1] - self.first if key >= 0 else None
            if row is not None:
                self.lengths[row], self.scores[row] = length, scores
                self.checks[row] = check_of(ids[number, :length])

    def write(self, path: Path) -> dict[str, Any]:
        """Write the file; returns its entry in the cache's list of files.

        Raises:
            OSError: if it cannot be written.
        """
        tensors = {"lengths": self.lengths, "checks": self.checks, "scores": torch.cat(self.scores)}
        digest = write_safetensors(path, tensors)
        tokens = int(self.lengths.sum(dtype=torch.int64))
        return {"bytes": path.stat().st_size, "hash": digest, "tokens": tokens}


def size_problem(path: Path, entry: dict[str, Any]) -> str | None:
    """What its size tells of a file; None if nothing is wrong."""
    try:
        size = path.stat().st_size
    except OSError as error:
        return f"{path.name} cannot be read ({error.strerror or error})"
    if size != entry["bytes"]:
        return f"{path.name} has {size:,} bytes, {entry['bytes']:,} were written"
    return None


def damage(path: Path, entry: dict[str, Any]) -> str | None:
    """What is wrong with a file, which is read whole; None if nothing."""
    problem = size_problem(path, entry)
    try:
        if problem is None and hash_of(path) != entry["hash"]:
            problem = f"{path.name} was changed after it was written"
    except OSError as error:
        problem = f"{path.name} cannot be read ({error})"
    return problem


class Shard:
    """A shard that is read: mapped into memory, once its hash was compared.

    Args:
        verify: compare it, and look for what is not finite.

    Raises:
        ConfigError: if it is damaged, or a log-prob is not finite.
    """

    def __init__(self, path: Path, entry: dict[str, Any], rows: int, verify: bool = True) -> None:
        problem = damage(path, entry) if verify else None
        if problem is None:
            try:
                with safe_open(path, framework="pt") as file:
                    found = {name: file.get_tensor(name) for name in file.keys()}
                problem = self._take(found, rows, verify)
            except (SafetensorError, OSError, KeyError) as error:
                problem = f"{path.name} cannot be read ({error})"
        if problem is not None:
            raise ConfigError(problem)

    def _take(self, tensors: dict[str, Tensor], rows: int, verify: bool) -> str | None:
        self.lengths, self.checks = tensors["lengths"].numpy(), tensors["checks"].numpy()
        self.scores = tensors["scores"]
        held = np.maximum(self.lengths.astype(np.int64) - 1, 0)
        self.starts = np.concatenate([[0], held.cumsum()])
        shapes = [self.lengths.shape, self.checks.shape, tuple(self.scores.shape)]
        if shapes != [(rows,), (rows,), (int(self.starts[-1]), 2)]:
            return f"its arrays are not those of {rows} rows"
        if not verify:
            return None
        finite = self.scores.isfinite().all(1)
        if not finite.all():
            row = int(np.searchsorted(self.starts, int(finite.logical_not().nonzero()[0]), "right"))
            return f"a log-prob of its row {row} of {rows} is NaN or infinity"
        return None

    def row(self, number: int) -> Tensor:
        """Log-probs ``[T − 1, 2]`` of a row of T tokens."""
        return self.scores[self.starts[number] : self.starts[number + 1]]
