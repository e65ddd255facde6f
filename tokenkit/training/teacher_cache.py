"""A teacher on disk: two floats a token, written once, read by the content of a row.

ALM needs of a teacher only the log-prob of each token and of a boundary after it. A cache holds
both for every row seen, keyed by a hash of the row's token ids, so it does not matter in which
order, by how many ranks or in which micro-batches rows come back.

Files: ``meta.json`` (see ``cache_meta.py``), ``keys.npy`` (uint64, sorted), ``offsets.npy`` (int64,
one more), ``label.npy`` and ``boundary.npy`` (fp32, all rows joined).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tokenkit.batch import Sequences, following, previous
from tokenkit.errors import ConfigError, DataError, ModelError
from tokenkit.io import new_folder
from tokenkit.models.flops import ModelSize
from tokenkit.models.outputs import Outputs

BLOCK = 2**22  # scores that are looked through at once


def row_key(ids: np.ndarray) -> int:
    """Hash of one row's unpadded token ids."""
    data = np.ascontiguousarray(ids, dtype=np.int32).tobytes()
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def unpadded_rows(seq: Sequences) -> list[np.ndarray]:
    """The real ids of each row."""
    ids, mask = seq.ids.cpu().numpy(), seq.mask.cpu().numpy()
    return [row[keep] for row, keep in zip(ids, mask, strict=True)]


class CacheWriter:
    """Collects scores of rows and writes them at once."""

    def __init__(self) -> None:
        self._rows: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def knows(self, seq: Sequences) -> bool:
        """Whether it has every row, as from the second pass over the data on."""
        return all(row_key(row) in self._rows for row in unpadded_rows(seq))

    def add(self, outputs: Outputs, places: Sequence[str] = ()) -> None:
        """Keep a teacher's log-probs of the rows it read.

        Args:
            places: file and line of each row.

        Raises:
            ModelError: naming the first row with a log-prob that is not finite.
        """
        # On disk, a label's score stands at the place that predicts it.
        label = following(outputs.token_logprob).float().cpu().numpy()
        boundary = outputs.boundary_logprob.float().cpu().numpy()
        for number, row in enumerate(unpadded_rows(outputs.seq)):
            n = len(row)
            if not np.isfinite([label[number, :n], boundary[number, :n]]).all():
                where = f"{places[number]}: " if places else ""
                raise ModelError(
                    f"{where}the teacher's log-probs of this row are not finite; nothing is "
                    "written (training.dtype float32 overflows later than bfloat16)"
                )
            self._rows[row_key(row)] = (label[number, :n].copy(), boundary[number, :n].copy())

    def save(self, folder: Path, meta: dict[str, Any]) -> None:
        """Write into ``folder``, which must not exist; it appears complete or not at all.

        Args:
            meta: from :func:`tokenkit.training.cache_meta.describe_run`.
        """
        keys = sorted(self._rows)
        lengths = [len(self._rows[key][0]) for key in keys]
        with new_folder(folder) as partial:
            np.save(partial / "keys.npy", np.array(keys, dtype=np.uint64))
            np.save(partial / "offsets.npy", np.cumsum([0, *lengths], dtype=np.int64))
            for number, name in enumerate(("label", "boundary")):
                parts = [self._rows[key][number] for key in keys]
                np.save(partial / f"{name}.npy", np.concatenate(parts).astype(np.float32))
            (partial / "meta.json").write_text(json.dumps({**meta, "rows": len(keys)}, indent=2))


class CachedTeacher:
    """A :class:`~tokenkit.training.teacher.Teacher` that reads a cache.

    Args:
        rows: distinct rows that it must hold, as its meta says.

    Raises:
        ConfigError: if the folder is no cache, its files do not belong together, or a log-prob is
            not finite.
    """

    hf_config = None
    size: ModelSize | None = None

    def __init__(self, folder: Path, rows: int) -> None:
        self.folder = folder
        try:
            self.keys = np.load(folder / "keys.npy")
            self.offsets = np.load(folder / "offsets.npy")
            self.label = np.load(folder / "label.npy", mmap_mode="r")
            self.boundary = np.load(folder / "boundary.npy", mmap_mode="r")
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"teacher.cache = '{folder}' is not a teacher cache ({error}); "
                "write one with tokenkit cache-teacher"
            ) from error
        if not self._fits(rows):
            raise ConfigError(
                f"teacher.cache = '{folder}' is damaged: its arrays are not those of {rows} rows; "
                "write a new cache with tokenkit cache-teacher"
            )
        for name, scores in (("label", self.label), ("boundary", self.boundary)):
            self._check_finite(name, scores)

    def _check_finite(self, name: str, scores: np.ndarray) -> None:
        for begin in range(0, len(scores), BLOCK):
            block = scores[begin : begin + BLOCK]
            # Extremes tell at memory speed; which one it is matters only then.
            if not np.isfinite([block.min(), block.max()]).all():
                at = begin + int(np.flatnonzero(~np.isfinite(block))[0])
                row = int(np.searchsorted(self.offsets, at, side="right"))
                raise ConfigError(
                    f"teacher.cache = '{self.folder}': {name}.npy holds NaN or infinity in row "
                    f"{row} of {len(self.keys)}; write a new cache with tokenkit cache-teacher"
                )

    def _fits(self, rows: int) -> bool:
        keys, offsets, scores = self.keys, self.offsets, (self.label, self.boundary)
        shapes = [array.shape for array in (keys, offsets, *scores)]
        types = [array.dtype for array in (keys, offsets, *scores)]
        if types != [np.uint64, np.int64, np.float32, np.float32] or (rows + 1,) != shapes[1]:
            return False
        ends = offsets[0] == 0 and shapes[2:] == [(offsets[-1],)] * 2
        ascending = (keys[1:] > keys[:-1]).all() and (offsets[1:] >= offsets[:-1]).all()
        return bool(ends and ascending and shapes[0] == (rows,))

    def read(self, seq: Sequences, needs: Collection[str]) -> Outputs:
        """Cached log-probs.

        Raises:
            DataError: if a row was not cached.
        """
        shape = seq.ids.shape
        label, boundary = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        for number, row in enumerate(unpadded_rows(seq)):
            key = row_key(row)
            at = int(np.searchsorted(self.keys, np.uint64(key)))
            if at == len(self.keys) or int(self.keys[at]) != key:
                raise DataError(
                    f"teacher.cache = '{self.folder}' lacks a row of this run's data; run "
                    "tokenkit cache-teacher again with the same data, lengths, seed and steps"
                )
            begin, end = self.offsets[at], self.offsets[at + 1]
            label[number, : end - begin] = self.label[begin:end]
            boundary[number, : end - begin] = self.boundary[begin:end]
        token, boundary = (torch.from_numpy(x).to(seq.ids.device) for x in (label, boundary))
        token = torch.where(seq.scored, previous(token), 0.0)
        return Outputs(seq, token_logprob=token, boundary_logprob=boundary)
