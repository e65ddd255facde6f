"""How several losses become one gradient."""

from __future__ import annotations

import torch

from tokenkit.balance import gradmag, gradnorm, weighted  # noqa: F401 (registered on import)
from tokenkit.balance.base import BALANCES, Balance, Passes
from tokenkit.balance.mixtures import Mixture
from tokenkit.config import Config
from tokenkit.config.aggregation import parse_mixtures

__all__ = ["BALANCES", "Balance", "Passes", "build_balance"]


def build_balance(config: Config, device: torch.device) -> Balance:
    """The balance called ``loss.aggregation``: a registered one, or stages joined by "+"."""
    name = config.loss.aggregation
    make = Mixture if parse_mixtures(name) else BALANCES.get(name)
    return make(config, len(config.loss.names), device)
