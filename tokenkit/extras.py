"""Packages that only parts of tokenkit need: what to install where one is missing."""

from __future__ import annotations

from importlib.util import find_spec

from tokenkit.errors import ConfigError

# Extra → the package it is wanted for, as it is imported, and what pip is to install
EXTRAS = {
    "eval": ("lm_eval", "'lm-eval<0.5' accelerate"),
    "tensorboard": ("tensorboard", "tensorboard"),
}


def missing(extra: str) -> str:
    """What to install for an extra of pyproject.toml; "" if its package is here."""
    package, wanted = EXTRAS[extra]
    if find_spec(package) is not None:
        return ""
    return f"the package {package} is not installed: pip install {wanted}"


def need_extra(extra: str, what: str) -> None:
    """Refuse to go on without a package.

    Args:
        what: needs it; the message begins with it.

    Raises:
        ConfigError: if it is not installed.
    """
    if problem := missing(extra):
        raise ConfigError(f"{what}: {problem}")
