"""Impossible settings of ``[hypernet]``, ``[tokenizer_sampler]`` and ``eval.tokenizers``."""

from __future__ import annotations

from collections.abc import Iterator

from tokenkit.config.load import to_toml
from tokenkit.config.schema import Config


def trains_vocabulary(config: Config) -> bool:
    """Whether anything behind the embeddings is trained."""
    hypernet = config.hypernet
    network = hypernet.architecture not in ("", "identity") or (
        hypernet.architecture and hypernet.byte_embeddings
    )
    return bool(config.student.train_embeddings or network)


def check_hypernet(config: Config) -> Iterator[str]:
    hypernet = config.hypernet
    if not hypernet.architecture:
        if config.tokenizer_sampler.enable:
            yield (
                "tokenizer_sampler.enable = true needs a network that makes the embeddings: set "
                'hypernet.architecture, to "transformer" for one'
            )
    if hypernet.identity_steps:
        yield from _check_identity_phase(config)
    if hypernet.byte_embeddings and not config.tokenizer_sampler.enable:
        yield (
            "hypernet.byte_embeddings = true without tokenizer_sampler.enable: only surface forms "
            "of sampled tokens contain bytes"
        )


def _check_identity_phase(config: Config) -> Iterator[str]:
    hypernet, steps = config.hypernet, config.training.steps
    where = f"hypernet.identity_steps = {hypernet.identity_steps}"
    if not hypernet.architecture:
        yield f"{where} without a network: set hypernet.architecture"
    elif hypernet.architecture == "identity":
        yield f'{where}: hypernet.architecture = "identity" has nothing to learn; set it to 0'
    elif hypernet.residual:
        yield (
            f"{where} with hypernet.residual = true: such a network gives source tokens back as "
            "they are from the start, so there is nothing to learn; set one to 0 or false"
        )
    if config.lr_scheduler.prefix_steps:
        yield (
            f"lr_scheduler.prefix_steps = {config.lr_scheduler.prefix_steps} with {where}: the "
            "identity phase is the prefix; set hypernet.identity_lr and leave the other at 0"
        )
    if 0 < steps <= hypernet.identity_steps:
        yield f"{where} leaves none of training.steps = {steps} for anything else"


def check_sampler(config: Config) -> Iterator[str]:
    sampler, student = config.tokenizer_sampler, config.student
    if config.eval.tokenizers and not sampler.enable:
        yield (
            f"eval.tokenizers = {to_toml(config.eval.tokenizers)} needs a hypernetwork that can "
            "read any tokenizer: set tokenizer_sampler.enable"
        )
    if not sampler.enable:
        return
    if sampler.size_min > sampler.size_max:
        yield (
            f"tokenizer_sampler.size_min = {sampler.size_min} is more than size_max = "
            f"{sampler.size_max}"
        )
    for name in ("target_tokenizer", "tokens_to_add"):
        if value := getattr(student, name):
            yield (
                f"student.{name} = {to_toml(value)} with tokenizer_sampler.enable: the student "
                "gets sampled tokenizers; leave it empty"
            )
