"""New files and folders: whole or not at all, and never over something that is there.

Both are written under the name ``….partial`` beside the wanted one and renamed when all of it is
there, so a name without that ending is always complete. A crash leaves the partial one behind; the
next attempt takes its place.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Literal

from tokenkit.errors import TokenkitError

LONGEST_NAME, LONGEST_PATH = 255, 4095  # bytes, on Linux


def name_problem(name: str) -> str:
    """Why no file or folder can have this name; "" if one can."""
    if "\0" in name:
        return "it holds a NUL character, which no name of a file may"
    raw = os.fsencode(os.path.expanduser(name))
    longest = max(map(len, raw.split(b"/")))
    if longest > LONGEST_NAME:
        return f"a name in it has {longest} bytes; at most {LONGEST_NAME} are possible"
    if len(raw) > LONGEST_PATH:
        return f"it has {len(raw)} bytes; a path has at most {LONGEST_PATH}"
    return ""


def place_problem(path: Path) -> str:
    """Why nothing can be written at ``path``, which need not exist; "" if it can.

    Tried in the nearest folder that exists, because file systems have reasons of their own.
    """
    problem = name_problem(str(partial_path(path)) if path.name else str(path))
    if problem:
        return problem
    folder = next(p for p in (path, *path.absolute().parents) if os.path.lexists(p))
    if folder == path and not path.is_dir():
        folder = path.absolute().parent
    if not folder.is_dir():
        return f"'{folder}' is a file; name a folder"
    try:
        os.rmdir(tempfile.mkdtemp(prefix=".tokenkit-", dir=folder))
    except OSError as error:
        return f"nothing can be written in '{folder}' ({error.strerror}); choose another place"
    return ""


def check_place(path: Path, option: str, kind: Literal["file", "folder"]) -> None:
    """Find out before the work whether its result can be written; a file may be replaced.

    Raises:
        TokenkitError: if it cannot; the message begins with ``option``.
    """
    if path.name in ("", ".."):
        raise TokenkitError(f"{option} '{path}': name a new {kind}, such as results/new")
    if problem := place_problem(path):
        raise TokenkitError(f"{option} '{path}': {problem}")
    if kind == "file" and path.is_dir():
        raise TokenkitError(f"{option} '{path}' is a folder; name a file")
    if kind == "file" and not path.absolute().parent.is_dir():
        raise TokenkitError(f"{option} '{path}': folder '{path.parent}' does not exist")


def refuse_existing(path: Path, option: str, kind: Literal["file", "folder"]) -> None:
    """Refuse to write over anything; an empty folder may become the new one.

    Args:
        option: what named the path, as in ``--output``; the message begins with it.

    Raises:
        TokenkitError: if ``path`` is taken, or nothing can be written there.
    """
    check_place(path, option, kind)
    if kind == "file" and path.exists():
        raise TokenkitError(f"{option} '{path}' already exists; choose a new file")
    if kind == "folder" and path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise TokenkitError(
            f"{option} '{path}' already exists and is not empty; choose a new folder"
        )


def partial_path(path: Path) -> Path:
    """Where ``path`` is written before it is whole."""
    return path.with_name(f"{path.name}.partial")


@contextmanager
def new_folder(path: Path, *, resume: bool = False) -> Iterator[Path]:
    """A folder to write into, which becomes ``path`` when the block ends well.

    Args:
        path: must not exist, or be an empty folder.
        resume: what was written is kept when the block fails, for the next attempt to go on from;
            otherwise each attempt begins with an empty folder.
    """
    partial = partial_path(path)
    if not resume:
        shutil.rmtree(partial, ignore_errors=True)  # left by a crash
    partial.mkdir(parents=True, exist_ok=resume)
    try:
        yield partial
    except BaseException:
        if resume:
            with suppress(OSError):  # nothing to go on from, unless it holds something
                partial.rmdir()
        else:
            shutil.rmtree(partial, ignore_errors=True)
        raise
    if path.exists():
        path.rmdir()
    partial.rename(path)


@contextmanager
def new_file(path: Path, mode: Literal["w", "wb"] = "w", keep: bool = False) -> Iterator[IO[Any]]:
    """An open file, which becomes ``path`` when the block ends well; replaces a former one at once.

    Where the block fails, what was written goes, or stays beside if it is worth to ``keep``.
    Text is UTF-8 with ``\\n`` line ends. When the name appears, the content is on the disk.
    """
    partial = partial_path(path)
    text: dict[str, Any] = {"encoding": "utf-8", "newline": "\n"} if mode == "w" else {}
    try:
        with partial.open(mode, **text) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        if not keep:
            partial.unlink(missing_ok=True)
        raise
