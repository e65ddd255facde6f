"""Where an evaluation runs."""

from __future__ import annotations

import torch

from tokenkit.errors import ConfigError


def usable_device(name: str | None) -> torch.device:
    """The device called ``name``; None is a GPU if there is one, else the CPU.

    Raises:
        ConfigError: if torch does not know it or this machine does not have it.
    """
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"--device '{name}' cannot be used ({reason}); try cpu") from error
