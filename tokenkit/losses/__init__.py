"""Losses by name; importing this package registers them all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import torch

from tokenkit.config import Config, add_check, to_toml
from tokenkit.errors import ConfigError
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
from tokenkit.losses.base import Loss
from tokenkit.losses.registry import LOSSES
from tokenkit.models.outputs import CACHED
from tokenkit.registry import did_you_mean

if TYPE_CHECKING:
    from tokenkit.tokenizers import ByteifiedTokenizer

__all__ = ["LOSSES", "Loss", "boundary_mask", "build_losses", "need_teacher", "pairings"]


def need_teacher(config: Config) -> bool:
    """Whether any of the config's losses reads a teacher."""
    return any(LOSSES.get(name).needs_teacher for name in config.loss.names)


def build_losses(
    config: Config,
    student_tok: ByteifiedTokenizer,
    teacher_tok: ByteifiedTokenizer | None,
    student_width: int,
    teacher_width: int,
) -> list[Loss]:
    """The losses the config names; parameters of their own are drawn, the same on all ranks.

    Args:
        student_width, teacher_width: of the models' hidden states.

    Raises:
        ConfigError: if a loss needs more of the teacher than the cache holds.
    """
    losses = [LOSSES.get(name)(config, student_tok, teacher_tok) for name in config.loss.names]
    for loss in losses:  # settings may have changed what it needs
        for problem in cache_problems(config, loss):
            raise ConfigError(problem)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.job.seed)
        for loss in losses:
            loss.add_parameters(student_width, teacher_width)
    return losses


def pairings(losses: Sequence[Loss]) -> dict[str, Callable]:
    """By loss, what it pairs of both sides; for those who make batches."""
    return {loss.name: loss.pair for loss in losses if loss.pair is not None}


def boundary_mask(tok: ByteifiedTokenizer, config: Config) -> torch.Tensor:
    """Tokens that begin with a boundary, ``[len(tok)]`` bool; under ``eos_as_space`` only EOS."""
    if "eos_as_space" in config.alm.mode.split("+"):
        mask = torch.zeros(len(tok), dtype=torch.bool)
        mask[tok.eos_id] = True
        return mask
    return torch.from_numpy(tok.space_mask(config.alm.space_mask_mode))


def cache_problems(config: Config, loss: Loss | type[Loss]) -> Iterator[str]:
    """Whether a loss needs more of the teacher than a cache holds."""
    missing = loss.needs - CACHED
    if config.teacher.cache and loss.needs_teacher and missing:
        yield (
            f"teacher.cache holds log-probs only, but loss {to_toml(loss.name)} needs the "
            f"teacher's {', '.join(sorted(missing))}: name teacher.model instead, or use alm losses"
        )


def problems(config: Config) -> Iterator[str]:
    """What cannot work of the losses that the config names."""
    yield from alm.settings_problems(config)
    for name in config.loss.names:
        if name not in LOSSES:
            known = LOSSES.names()
            yield (
                f"loss.names = {to_toml(config.loss.names)}: unknown loss {to_toml(name)}"
                f"{did_you_mean(name, known)} (available: {', '.join(known)})"
            )
            return
        loss = LOSSES.get(name)
        yield from cache_problems(config, loss)
        if config.tokenizer_sampler.enable and loss.fixed_tokenizer:
            yield (
                f"loss.names: {to_toml(name)} needs one fixed tokenizer, but "
                "tokenizer_sampler.enable is set: use alm_unconstrained, for example"
            )
        yield from loss.problems(config)


add_check(problems)
