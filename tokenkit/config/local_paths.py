"""Local paths in settings, written so that they hold from any folder; hub ids stay as they are."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tokenkit.config.keys import all_keys, config_tables, settings_of
from tokenkit.config.schema import Config


def tokenizer_path(spec: str) -> str:
    """The path or hub id of a tokenizer spec, what stands before ``:source=`` and the like."""
    return re.split(r":(?=\w+=)", spec, maxsplit=1)[0]


def with_whole_paths(config: Config, whole: Callable[[str], str] = os.path.abspath) -> Config:
    """A copy in which what exists on this machine is named by its whole path.

    Args:
        whole: the whole path of a relative one; ``os.path.realpath`` follows links, too.
    """
    return _with_paths(config, lambda value: whole_value(value, whole))


def whole_value(value: Any, whole: Callable[[str], str] = os.path.abspath) -> Any:
    """A path, pattern or tokenizer spec by its whole path where that exists; each of a list."""
    if isinstance(value, list):
        return [whole_value(item, whole) for item in value]
    path = os.path.expanduser(value)
    if os.path.exists(path):
        return whole(path)
    name = tokenizer_path(value)
    if os.path.exists(os.path.expanduser(name)):
        found = whole(os.path.expanduser(name))
        # A folder may have a name in which a spec seems to begin.
        return found + value.removeprefix(name) if tokenizer_path(found) == found else value
    if glob.has_magic(path) and glob.glob(path):
        folder, pattern = os.path.split(path)
        if glob.has_magic(folder):
            return os.path.join(glob.escape(whole(os.curdir)), path)
        return os.path.join(glob.escape(whole(folder or os.curdir)), pattern)
    return value


def where_the_run_lies(config: Config, file: str) -> Config:
    """Settings that were read in a run's folder, which may have been moved since.

    What is gone from the old place, the run and what lies beside it, is looked for in the new one.
    """
    folder = Path(file).resolve().parent
    of_a_run = Path(file).name == "config.toml" and (folder / "checkpoints").is_dir()
    if not of_a_run or not os.path.isabs(config.job.output_dir):
        return config
    old, new = list(Path(config.job.output_dir).parts), list(folder.parts)
    while old and new and old[-1] == new[-1]:
        old.pop()
        new.pop()
    if not old or not new:
        return config
    before, after = os.path.join(*old), os.path.join(*new)
    return _with_paths(config, lambda value: _moved(value, before, after))


def _moved(value: Any, before: str, after: str) -> Any:
    if isinstance(value, list):
        return [_moved(item, before, after) for item in value]
    if not f"{value}/".startswith(before.rstrip("/") + "/") or _is_there(value):
        return value
    moved = after + value[len(before) :]
    return moved if _is_there(moved) else value


def _is_there(value: str) -> bool:
    return bool(os.path.exists(value) or os.path.exists(tokenizer_path(value)) or glob.glob(value))


def _with_paths(config: Config, change: Callable[[Any], Any]) -> Config:
    """A copy with the values of all keys that are paths changed."""
    copy = config.copy()
    for section, values in config_tables(config).items():
        for name, value in values.items():
            if all_keys()[f"{section}.{name}"].metadata["path"]:
                setattr(settings_of(copy, section), name, change(value))
    return copy
