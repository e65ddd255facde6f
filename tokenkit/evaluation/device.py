"""Where an evaluation runs."""

from __future__ import annotations

import torch

from tokenkit.errors import ConfigError


def default_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def usable_device(name: str) -> torch.device:
    """The device called ``name``.

    Raises:
        ConfigError: if torch does not know it or this machine does not have it.
    """
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"--device '{name}' cannot be used ({reason}); try cpu") from error
