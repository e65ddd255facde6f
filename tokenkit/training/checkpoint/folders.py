"""Folders of checkpoints: made, moved in, dropped; what is not ours is never deleted."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from tokenkit.errors import DiskError
from tokenkit.log import logger
from tokenkit.training.checkpoint.manifest import FILE, OLD, find_checkpoints

MARK = "being-written"  # in a folder that a crash may leave behind


def new_partial(root: Path, step: int) -> Path:
    """A folder to write a checkpoint into; those that crashes left are removed.

    Raises:
        DiskError: if it cannot be made.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        for left in root.glob(".step-*.partial"):
            if (left / MARK).is_file():
                _put_back(left)
                shutil.rmtree(left, ignore_errors=True)
        partial = Path(tempfile.mkdtemp(".partial", f".step-{step:08d}-", root))
        (partial / MARK).touch()
        partial.chmod(0o777 & ~_umask())
    except OSError as error:
        raise DiskError(
            f"the checkpoint of step {step} cannot be written into '{root}' ({error})"
        ) from error
    return partial


def _put_back(left: Path) -> None:
    """A checkpoint that a crash left without its successor gets its name again."""
    place = left.with_name(left.name[1 : len(".step-00000000")])
    if (left / "former").is_dir() and not place.exists():
        (left / "former").rename(place)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def move_in(partial: Path, folder: Path) -> None:
    """Give a written checkpoint its name. A former one of that step goes, anything else is kept."""
    former = None
    if folder.exists():
        if (folder / FILE).is_file() or (folder / OLD).is_file():
            former = Path(tempfile.mkdtemp(".partial", f".{folder.name}-", folder.parent))
            (former / MARK).touch()
            folder.rename(former / "former")
        else:
            number = 1
            while (aside := folder.with_name(f"{folder.name}.aside-{number}")).exists():
                number += 1
            folder.rename(aside)
            logger.warning(f"'{folder}' is no checkpoint; it is called '{aside.name}' now")
    partial.rename(folder)
    (folder / MARK).unlink()
    _sync(folder.parent)
    if former is not None:
        shutil.rmtree(former, ignore_errors=True)


def _sync(folder: Path) -> None:
    """The names in a folder are on the disk, too (where the system can)."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def drop_old(root: Path, keep: int, damaged: Collection[Path] = ()) -> None:
    """Delete all checkpoints but those ``keep`` that were written last (0: none).

    Those known to be damaged neither count nor go: they could push out the last whole one.
    """
    found = [c for c in find_checkpoints(root)[0] if c.folder not in damaged]
    for checkpoint in found[keep:] if keep else []:
        shutil.rmtree(checkpoint.folder, ignore_errors=True)
