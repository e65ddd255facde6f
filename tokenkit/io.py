"""New files and folders: whole or not at all, and never over something that is there.

Both are written under the name ``….partial`` beside the wanted one and renamed when all of it is
there, so a name without that ending is always complete. A crash leaves the partial one behind; the
next attempt takes its place.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Literal

from tokenkit.errors import TokenkitError


def refuse_existing(path: Path, option: str, kind: Literal["file", "folder"]) -> None:
    """Refuse to write over anything; an empty folder may become the new one.

    Args:
        option: what named the path, as in ``--output``; the message begins with it.

    Raises:
        TokenkitError: if ``path`` is taken.
    """
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
