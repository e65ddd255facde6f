"""``job.config_file`` is a file, or the bare name of a recipe that comes with tokenkit."""

from __future__ import annotations

import os
from pathlib import Path

from tokenkit.registry import did_you_mean
from tokenkit.shipped import recipes


def settings_file(name: str) -> Path:
    """The file called ``name`` or, if there is none here, the recipe (``.toml`` may be left out).

    Where neither exists, it is the path of a file that does not.
    """
    path = Path(os.path.expanduser(name))
    if _is_bare(name) and not path.is_file():
        return recipes().get(name.removesuffix(".toml"), path)
    return path


def no_such_file(name: str) -> str:
    """Says that there is none; for what could be a recipe, which ones there are."""
    if not _is_bare(name):
        return f"no such file: {name}"
    names = list(recipes())
    close = did_you_mean(name.removesuffix(".toml"), names)
    return f"no such file: {name}, and no recipe has this name{close} (recipes: {', '.join(names)})"


def _is_bare(name: str) -> bool:
    return os.path.basename(name) == name
