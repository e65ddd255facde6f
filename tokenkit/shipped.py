"""What lies beside the package in a checkout and inside it in a wheel: train.py and the recipes.

In a checkout both are at the top, where one looks for them; ``setup.py`` takes them into a wheel as
``tokenkit/train.py`` and ``tokenkit/recipes/``.
"""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


def checkout() -> Path | None:
    """The top of the checkout that the package is imported from; None if it is installed."""
    return PACKAGE.parent if (PACKAGE.parent / "train_configs").is_dir() else None


def train_program() -> Path:
    """The file of the training program."""
    return (checkout() or PACKAGE) / "train.py"


def recipes() -> dict[str, Path]:
    """Files of settings that come with tokenkit, by name without ``.toml``."""
    return {path.stem: path for path in sorted(recipe_folder().glob("*.toml"))}


def recipe_folder() -> Path:
    """Where the recipes are, and the small data that some of them read."""
    root = checkout()
    return root / "train_configs" if root else PACKAGE / "recipes"
