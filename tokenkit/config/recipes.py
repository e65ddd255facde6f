"""``job.config_file`` is a file, or the bare name of a recipe that comes with tokenkit."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from tokenkit.registry import did_you_mean
from tokenkit.shipped import recipe_folder, recipes

SHIPPED_DATA = "train_configs/debug/"


def settings_file(name: str) -> Path:
    """The file called ``name`` or, if there is none here, the recipe (``.toml`` may be left out).

    Where neither exists, it is the path of a file that does not.
    """
    path = Path(os.path.expanduser(name))
    if _is_bare(name) and not path.is_file():
        return recipes().get(name.removesuffix(".toml"), path)
    return path


def with_shipped_paths(file: str, value: Any) -> Any:
    """A recipe's value, with paths of small data beside the recipe where they are here.

    Such paths are written as from the top of a checkout; other files' values stay as they are.
    """
    if isinstance(value, dict):
        return {key: with_shipped_paths(file, inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [with_shipped_paths(file, inner) for inner in value]
    if not isinstance(value, str) or not value.startswith(SHIPPED_DATA):
        return value
    if settings_file(file).parent != recipe_folder() or Path(SHIPPED_DATA).is_dir():
        return value
    return str(recipe_folder() / value.removeprefix("train_configs/"))


def no_such_file(name: str) -> str:
    """Says that there is none; for what could be a recipe, which ones there are."""
    if not _is_bare(name):
        return f"no such file: {name}"
    names = list(recipes())
    close = did_you_mean(name.removesuffix(".toml"), names)
    return f"no such file: {name}, and no recipe has this name{close} (recipes: {', '.join(names)})"


def _is_bare(name: str) -> bool:
    return os.path.basename(name) == name
