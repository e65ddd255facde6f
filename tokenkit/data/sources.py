"""Where rows come from: local files and folders, or datasets by name.

A name is a file, a folder (all files of known kinds in it and below, sorted by path), a pattern
with ``*``, or ``hf:name[:config]``. Kinds of file:

- ``.jsonl``: one JSON object a line; empty lines are no rows;
- ``.json``: a list of rows, or one object a line;
- ``.parquet``: a row is a row;
- ``.txt``: the whole file is one document.

Other kinds can be registered in :data:`FILE_KINDS`. All of these can be indexed; ``hf:`` sources
can be streamed instead.
"""

from __future__ import annotations

import glob
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from tokenkit.data.json_files import JsonLines, read_json_list
from tokenkit.errors import DataError
from tokenkit.registry import Registry

FILE_KINDS = Registry("kind of data file")

Row = tuple[Any, str]  # a row, and where it stands (file and line)


class Source(Protocol):
    """Rows by number."""

    def __len__(self) -> int: ...

    def read(self, index: int) -> Row:
        """A row and where it stands.

        Raises:
            DataError: if it cannot be read.
        """
        ...


@runtime_checkable
class Measured(Protocol):
    """A source that knows the sizes of rows without reading them."""

    def size(self, index: int) -> int:
        """Bytes of a row."""
        ...


def row_bytes(source: Source, index: int) -> int:
    """About how long a row is, all of its columns; 0 if it cannot be read."""
    if isinstance(source, Measured):
        return source.size(index)
    try:
        return len(str(source.read(index)[0]).encode(errors="replace"))
    except DataError:
        return 0


class Table:
    """Rows behind an indexable object: a list, a dataset that is mapped into memory."""

    def __init__(self, name: str, rows: Any) -> None:
        self.name, self.rows = name, rows

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, index: int) -> Row:
        where = f"{self.name}:{index + 1}"
        try:
            return self.rows[index], where
        except Exception as error:  # whatever a decoder makes of damaged data
            raise DataError(f"{where}: cannot be read ({_first_line(error)})") from error


class TextFile:
    """A file as one document."""

    def __init__(self, path: Path, text_field: str) -> None:
        self.path, self.text_field = path, text_field

    def __len__(self) -> int:
        return 1

    def read(self, index: int) -> Row:
        try:
            return {self.text_field: self.path.read_text(encoding="utf-8")}, f"{self.path}:1"
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{self.path}: not readable as UTF-8 text ({error})") from error


class JsonList:
    """The rows of a JSON list, each with the line it begins in."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows, self.lines = read_json_list(path)

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, index: int) -> Row:
        return self.rows[index], f"{self.path}:{self.lines[index]}"


class Joined:
    """Several sources one after another."""

    def __init__(self, parts: list[Source]) -> None:
        self.parts = parts
        self.ends = np.cumsum([len(part) for part in parts])

    def __len__(self) -> int:
        return int(self.ends[-1])

    def read(self, index: int) -> Row:
        part, within = self._place(index)
        return part.read(within)

    def size(self, index: int) -> int:
        return row_bytes(*self._place(index))

    def _place(self, index: int) -> tuple[Source, int]:
        part = int(np.searchsorted(self.ends, index, side="right"))
        return self.parts[part], index - int(self.ends[part - 1] if part else 0)


@FILE_KINDS.register(".jsonl")
def _open_jsonl(path: Path, text_field: str) -> Source:
    return JsonLines(path)


@FILE_KINDS.register(".json")
def _open_json(path: Path, text_field: str) -> Source:
    with path.open("rb") as file:
        is_list = file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"["
    return JsonList(path) if is_list else JsonLines(path)


@FILE_KINDS.register(".parquet")
def _open_parquet(path: Path, text_field: str) -> Source:
    """Converted once to an Arrow file in the cache of ``datasets`` and mapped into memory."""
    import datasets
    import pyarrow
    from pyarrow import parquet

    try:
        if parquet.read_metadata(path).num_rows == 0:
            return Table(str(path), [])
        return Table(str(path), datasets.Dataset.from_parquet(str(path)))
    except (pyarrow.ArrowException, datasets.exceptions.DatasetsError, OSError) as error:
        reason = _first_line(error.__cause__ or error)
        raise DataError(f"{path}: not a readable parquet file ({reason})") from error


@FILE_KINDS.register(".txt")
def _open_text(path: Path, text_field: str) -> Source:
    return TextFile(path, text_field)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


SPECIAL_FILES = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


def refuse_special(path: Path) -> None:
    """Refuse what can be read only once, or for ever.

    Raises:
        DataError: for anything but a file.
    """
    kind = SPECIAL_FILES.get(stat.S_IFMT(path.stat().st_mode))
    if kind:
        raise DataError(f"{path}: this is {kind}; data must be in files, which are read again")


def _files_in(folder: Path) -> list[Path]:
    found = (path for path in folder.rglob("*") if path.suffix in FILE_KINDS and not path.is_dir())
    hidden = (path.relative_to(folder).parts for path in found)
    return sorted(
        folder.joinpath(*parts) for parts in hidden if not any(p.startswith(".") for p in parts)
    )


def local_files(name: str) -> list[Path]:
    """The files that a name stands for, sorted by path.

    Raises:
        DataError: if there is none, or one of unknown kind or that is no plain file.
    """
    path = Path(name).expanduser()
    matches = [path] if path.exists() else map(Path, sorted(glob.glob(str(path), recursive=True)))
    files = [
        file for match in matches for file in (_files_in(match) if match.is_dir() else [match])
    ]
    kinds = ", ".join(FILE_KINDS.names())
    if not files:
        raise DataError(f"data '{name}': no such file, or a folder without any file of {kinds}")
    for file in files:
        if file.suffix not in FILE_KINDS:
            raise DataError(f"{file}: unknown kind of file '{file.suffix}' (known: {kinds})")
        try:
            refuse_special(file)
        except OSError as error:
            raise DataError(f"{file}: cannot be read ({error.strerror})") from error
    return files


def _open_local(name: str, text_field: str) -> Source:
    parts: list[Source] = []
    for path in local_files(name):
        try:
            parts.append(FILE_KINDS.get(path.suffix)(path, text_field))
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    return Joined(parts)


def _load_hub(name: str, split: str, streaming: bool) -> Any:
    import datasets

    dataset, _, config = name.removeprefix("hf:").partition(":")
    try:
        return datasets.load_dataset(dataset, config or None, split=split, streaming=streaming)
    except Exception as error:  # a loader may fail in any way
        raise DataError(
            f"data '{name}' (split '{split}') cannot be loaded: {_first_line(error)}"
        ) from error


def open_source(name: str, split: str, text_field: str = "text") -> Source:
    """An indexable source.

    Raises:
        DataError: if it is missing, unreadable or empty.
    """
    if name.startswith("hf:"):
        source: Source = Table(name, _load_hub(name, split, streaming=False))
    else:
        source = _open_local(name, text_field)
    if not len(source):
        raise DataError(f"data '{name}' has no rows")
    return source


def iterate_source(
    name: str, split: str, text_field: str = "text", streaming: bool = True
) -> Iterator[Row]:
    """All rows of a source once, in order; ``hf:`` sources are streamed if ``streaming``.

    Raises:
        DataError: as :func:`open_source`, or when a stream breaks off.
    """
    if not (streaming and name.startswith("hf:")):
        source = open_source(name, split, text_field)
        yield from map(source.read, range(len(source)))
        return
    number, rows = 0, iter(_load_hub(name, split, streaming=True))
    while True:
        number += 1
        try:
            row = next(rows)
        except StopIteration:
            return
        except Exception as error:  # of the network, or of whatever decodes the data
            raise DataError(f"{name}:{number}: cannot be read ({_first_line(error)})") from error
        yield row, f"{name}:{number}"
