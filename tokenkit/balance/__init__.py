"""How several losses become one gradient."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from tokenkit.balance import gradmag, gradnorm, weighted  # noqa: F401 (registered on import)
from tokenkit.balance.base import BALANCES, Balance, Passes
from tokenkit.balance.mixtures import Mixture
from tokenkit.balance.names import MIXTURES, mixture_problems, parse_mixtures
from tokenkit.config import Config, add_check, to_toml
from tokenkit.registry import did_you_mean

__all__ = ["BALANCES", "Balance", "Passes", "build_balance", "sums_losses"]


def balance_of(name: str) -> type[Balance]:
    """The balance that ``loss.aggregation`` names: a registered one, or stages joined by "+"."""
    return BALANCES.get(name) if name in BALANCES else Mixture


def sums_losses(config: Config) -> bool:
    """Whether a micro-batch goes backward once, for a sum of losses, not once for each."""
    return hasattr(balance_of(config.loss.aggregation), "measures")


def build_balance(config: Config, device: torch.device) -> Balance:
    """The config's balance."""
    return balance_of(config.loss.aggregation)(config, len(config.loss.names), device)


def problems(config: Config) -> Iterator[str]:
    """What cannot work of ``loss.aggregation``."""
    name = config.loss.aggregation
    where = f"loss.aggregation = {to_toml(name)}:"
    named = [known for known in BALANCES.names() if known]
    if name not in BALANCES:
        for problem in mixture_problems(name, named):
            yield f"{where} {problem}{did_you_mean(name, [*named, *MIXTURES])}"
        if not parse_mixtures(name):
            return
    if config.training.accumulate == "unsharded" and not sums_losses(config):
        yield (
            "training.accumulate = 'unsharded': no effect with loss.aggregation = "
            f"{to_toml(name)}, which reduces each loss's gradient by itself; leave it at 'auto'"
        )
    for problem in balance_of(name).problems(config):
        yield f"{where} {problem}"


add_check(problems)
