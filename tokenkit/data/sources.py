"""Where rows come from: local files and folders, or datasets by name.

Local: ``.jsonl``, ``.json`` (a list of rows, or one object a line), ``.parquet``, ``.txt`` (one
document a file), or a folder of such files. By name: ``hf:name[:config]``. Every source can be
indexed; ``hf:`` sources can be streamed instead.
"""

from __future__ import annotations

import glob
import itertools
import json
import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from tokenkit.errors import DataError

SUFFIXES = (".jsonl", ".json", ".parquet", ".txt")


class Source(Protocol):
    """Rows by number."""

    def __len__(self) -> int: ...

    def read(self, index: int) -> tuple[Any, str]:
        """A row and where it stands (file and line)."""
        ...


class JsonLines:
    """One JSON object a line; only line offsets are held in memory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        data = np.memmap(path, mode="r", dtype=np.uint8) if path.stat().st_size else np.zeros(0)
        ends = np.flatnonzero(data == ord("\n")) + 1
        if len(data) and (not len(ends) or ends[-1] != len(data)):
            ends = np.append(ends, len(data))
        begins = np.concatenate([[0], ends[:-1]]) if len(ends) else ends
        # Lines that hold nothing but their end are no rows.
        self.lines = np.flatnonzero(ends - begins > 1)
        self.begins, self.ends = begins[self.lines], ends[self.lines]
        self._map: mmap.mmap | None = None

    def __len__(self) -> int:
        return len(self.lines)

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_map": None}

    def read(self, index: int) -> tuple[Any, str]:
        if self._map is None:
            with self.path.open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        where = f"{self.path}:{self.lines[index] + 1}"
        data = self._map[int(self.begins[index]) : int(self.ends[index])]
        try:
            return json.loads(data), where
        except ValueError as error:
            raise DataError(f"{where}: not a JSON object ({error})") from error


class Rows:
    """Rows that are held in memory or behind an indexable object (a table, a dataset)."""

    def __init__(self, name: str, rows: Any) -> None:
        self.name, self.rows = name, rows

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, index: int) -> tuple[Any, str]:
        return self.rows[int(index)], f"{self.name}:{int(index) + 1}"


class TextFile:
    """A file as one document."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __len__(self) -> int:
        return 1

    def read(self, index: int) -> tuple[Any, str]:
        try:
            return self.path.read_text(encoding="utf-8"), f"{self.path}:1"
        except UnicodeDecodeError as error:
            raise DataError(f"{self.path}: not UTF-8 text ({error})") from error


class Joined:
    """Several sources one after another."""

    def __init__(self, parts: list[Source]) -> None:
        self.parts = parts
        self.ends = np.cumsum([len(part) for part in parts])

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def read(self, index: int) -> tuple[Any, str]:
        part = int(np.searchsorted(self.ends, index, side="right"))
        return self.parts[part].read(int(index - (self.ends[part - 1] if part else 0)))


def _open_json(path: Path) -> Source:
    with path.open("rb") as file:
        is_list = file.read(64).lstrip()[:1] == b"["
    if not is_list:
        return JsonLines(path)
    try:
        return Rows(str(path), json.loads(path.read_bytes()))
    except ValueError as error:
        raise DataError(f"{path}: not valid JSON ({error})") from error


def _open_parquet(path: Path) -> Source:
    import datasets
    import pyarrow

    try:
        table = pyarrow.parquet.read_table(path, memory_map=True)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a readable parquet file ({error})") from error
    return Rows(str(path), datasets.Dataset(table))


def _open_file(path: Path) -> Source:
    if path.suffix == ".jsonl":
        return JsonLines(path)
    if path.suffix == ".json":
        return _open_json(path)
    if path.suffix == ".parquet":
        return _open_parquet(path)
    if path.suffix == ".txt":
        return TextFile(path)
    raise DataError(f"{path}: unknown kind of file (known: {', '.join(SUFFIXES)})")


def _local_files(name: str) -> list[Path]:
    path = Path(name).expanduser()
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.suffix in SUFFIXES and p.is_file())
    elif path.is_file():
        files = [path]
    else:
        files = sorted(Path(p) for p in glob.glob(str(path), recursive=True))
    if not files:
        raise DataError(f"data '{name}': no such file, or no {'/'.join(SUFFIXES)} file in it")
    return files


def _load_hub(name: str, split: str, streaming: bool) -> Any:
    import datasets

    dataset, _, config = name.removeprefix("hf:").partition(":")
    try:
        return datasets.load_dataset(dataset, config or None, split=split, streaming=streaming)
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise DataError(f"data '{name}' (split '{split}') cannot be loaded: {reason}") from error


def open_source(name: str, split: str) -> Source:
    """An indexable source.

    Raises:
        DataError: if it is missing, unreadable or empty.
    """
    if name.startswith("hf:"):
        source: Source = Rows(name, _load_hub(name, split, streaming=False))
    else:
        source = Joined([_open_file(path) for path in _local_files(name)])
    if not len(source):
        raise DataError(f"data '{name}' has no rows")
    return source


def stream_source(name: str, split: str) -> Iterator[tuple[Any, str]]:
    """Rows of a source from its beginning, over and over, with where they stand."""
    for epoch in itertools.count():
        empty = True
        if name.startswith("hf:"):
            dataset = _load_hub(name, split, streaming=True)
            rows = ((row, f"{name}:{number + 1}") for number, row in enumerate(dataset))
        else:
            source = open_source(name, split)
            rows = (source.read(number) for number in range(len(source)))
        for row in rows:
            empty = False
            yield row
        if empty:
            raise DataError(f"data '{name}' has no rows (pass {epoch + 1})")
