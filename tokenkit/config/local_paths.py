"""Local paths in settings, written so that they hold from any folder; hub ids stay as they are."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable
from typing import Any

from tokenkit.config.keys import all_keys, config_tables, settings_of
from tokenkit.config.schema import Config
from tokenkit.config.validate_paths import tokenizer_path


def with_whole_paths(config: Config, whole: Callable[[str], str] = os.path.abspath) -> Config:
    """A copy in which what exists on this machine is named by its whole path.

    Args:
        whole: the whole path of a relative one; ``os.path.realpath`` follows links, too.
    """
    copy = config.copy()
    for section, values in config_tables(config).items():
        for name, value in values.items():
            if all_keys()[f"{section}.{name}"].metadata["path"]:
                setattr(settings_of(copy, section), name, whole_value(value, whole))
    return copy


def whole_value(value: Any, whole: Callable[[str], str] = os.path.abspath) -> Any:
    """A path, pattern or tokenizer spec by its whole path where that exists; each of a list."""
    if isinstance(value, list):
        return [whole_value(item, whole) for item in value]
    path = os.path.expanduser(value)
    if os.path.exists(path):
        return whole(path)
    name = tokenizer_path(value)
    if os.path.exists(os.path.expanduser(name)):
        return whole(os.path.expanduser(name)) + value.removeprefix(name)
    if glob.has_magic(path) and glob.glob(path):
        # Of the pattern alone, "*" and the like have a meaning.
        return os.path.join(glob.escape(whole(os.curdir)), path)
    return value
