"""Losses by name; importing this package registers them all."""

from __future__ import annotations

import torch

from tokenkit.config import Config
from tokenkit.losses import (  # noqa: F401 (registered on import)
    alm,
    dskd,
    kd,
    latents,
    lexical,
    mined,
    sft,
    side_path,
    uld,
)
from tokenkit.losses.base import Loss, Signals
from tokenkit.losses.registry import LOSSES

__all__ = ["LOSSES", "Loss", "Signals", "boundary_mask"]


def boundary_mask(tok, config: Config) -> torch.Tensor:
    """Tokens that begin with a boundary, ``[len(tok)]`` bool; under ``eos_as_space`` only EOS."""
    if "eos_as_space" in config.alm.mode.split("+"):
        mask = torch.zeros(len(tok), dtype=torch.bool)
        mask[tok.eos_id] = True
        return mask
    return torch.from_numpy(tok.space_mask(config.alm.space_mask_mode))
