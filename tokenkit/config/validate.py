"""Impossible settings, found before anything is loaded, downloaded or started.

Each check yields one line per problem; the first one is raised. Values that depend on no other
key are checked from the schema, local files and folders in ``validate_paths.py``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator

from tokenkit.config.aggregation import MIXTURES, WEIGHINGS, aggregation_problems
from tokenkit.config.load import to_toml
from tokenkit.config.schema import Config, KeyInfo, all_keys
from tokenkit.config.validate_hypernet import check_hypernet, check_sampler, trains_vocabulary
from tokenkit.config.validate_paths import check_paths, tokenizer_path
from tokenkit.errors import ConfigError
from tokenkit.registry import did_you_mean

JOINED_CHOICES = {
    "latents.states": ("last_hidden_state", "all_hidden_states", "qkv"),
    "alm.mode": ("merge_by_space_prob", "append_space", "eos_as_space"),
    "alm.space_mask_mode": ("space", "tab", "newline", "special"),
}


def validate(config: Config, world_size: int, known_losses: Collection[str] | None = None) -> None:
    """Check everything that needs neither torch nor the network.

    Args:
        config: the settings; their types are right already (``load_config`` saw to it).
        world_size: number of processes of the run.
        known_losses: registered losses; without them, ``loss.names`` are not checked.

    Raises:
        ConfigError: one line that names the key, its value and what would be right.
    """
    for problem in _problems(config, world_size, known_losses):
        raise ConfigError(problem)


def _problems(
    config: Config, world_size: int, known_losses: Collection[str] | None
) -> Iterator[str]:
    for info in all_keys().values():
        yield from _check_values(info, getattr(getattr(config, info.section), info.name))
    yield from _check_joined(config)
    yield from _check_student(config)
    yield from _check_teacher(config)
    yield from _check_loss(config, known_losses)
    yield from _check_aggregation(config)
    yield from check_hypernet(config)
    yield from check_sampler(config)
    yield from _check_alm(config)
    yield from _check_baselines(config)
    yield from _check_data(config)
    yield from _check_optimizer(config)
    yield from _check_parallelism(config, world_size)
    yield from check_paths(config)


def _check_values(info: KeyInfo, value: object) -> Iterator[str]:
    """Choices and ranges of the schema; of each element, if the value is a list."""
    limits = info.metadata
    for item in value if isinstance(value, list) else [value]:
        where = f"{info.full_name} = {to_toml(value)}:"
        if limits["choices"] and item not in limits["choices"]:
            choices = ", ".join(limits["choices"])
            hint = did_you_mean(item, list(limits["choices"]))
            of_item = f" for {to_toml(item)}" if isinstance(value, list) else ""
            yield f"{where} expected one of {choices}{of_item}{hint}"
        if isinstance(item, float) and not math.isfinite(item):
            yield f"{where} expected a finite number"
        if limits["minimum"] is not None and item < limits["minimum"]:
            yield f"{where} expected at least {limits['minimum']}"
        if limits["above"] is not None and item <= limits["above"]:
            yield f"{where} expected more than {limits['above']}"
        if limits["maximum"] is not None and item > limits["maximum"]:
            yield f"{where} expected at most {limits['maximum']}"
        if limits["below"] is not None and item >= limits["below"]:
            yield f"{where} expected less than {limits['below']}"


def _check_joined(config: Config) -> Iterator[str]:
    """Keys that hold names joined by ``+``."""
    for full_name, choices in JOINED_CHOICES.items():
        section, name = full_name.split(".")
        value = getattr(getattr(config, section), name)
        parts = value.split("+") if value else []
        for part in parts:
            if part not in choices:
                yield (
                    f"{full_name} = {to_toml(value)}: {to_toml(part)} is not one of "
                    f"{', '.join(choices)} (joined by +){did_you_mean(part, list(choices))}"
                )
        if len(set(parts)) < len(parts):
            yield f"{full_name} = {to_toml(value)}: a name appears twice"


def _check_student(config: Config) -> Iterator[str]:
    student, training = config.student, config.training
    if not student.model:
        yield "student.model is empty: give a hub id or a local folder"
    if not student.tokenizer:
        example = student.model or "org/name"
        yield f'student.tokenizer is empty: give a spec such as "{example}:source=Llama3"'
    if student.expand_input_ids:
        yield "student.expand_input_ids = true is not supported yet: set it to false"
    if training.steps and student.train == "none" and not trains_vocabulary(config):
        yield (
            'student.train = "none" with student.train_embeddings = false leaves nothing to '
            'train: set one of them to "full", "lora" or true'
        )
    if student.train == "lora" and not config.lora.targets:
        yield 'lora.targets is empty, but student.train = "lora" needs projections to adapt'
    added = student.tokens_to_add
    if "" in added or len(set(added)) < len(added):
        yield f"student.tokens_to_add = {to_toml(added)}: tokens must be non-empty and distinct"


def _check_teacher(config: Config) -> Iterator[str]:
    teacher, student = config.teacher, config.student
    if teacher.model and not teacher.tokenizer and not teacher.cache:
        yield (
            f"teacher.tokenizer is empty, but teacher.model = {to_toml(teacher.model)}: give "
            f'the teacher\'s tokenizer spec, such as "{teacher.model}"'
        )
    own = tokenizer_path(teacher.tokenizer) in ("", tokenizer_path(student.tokenizer))
    if not own and not teacher.model and not teacher.cache:
        yield (
            f"teacher.tokenizer = {to_toml(teacher.tokenizer)} without teacher.model or "
            "teacher.cache: name the teacher too, or leave both out for self-distillation, which "
            "reads student.tokenizer"
        )


def _check_loss(config: Config, known_losses: Collection[str] | None) -> Iterator[str]:
    loss = config.loss
    if not loss.names and config.training.steps:
        yield 'loss.names is empty: name at least one loss, such as "sft"'
    for name in loss.names:
        if known_losses is not None and name not in known_losses:
            known = sorted(known_losses)
            yield (
                f"loss.names = {to_toml(loss.names)}: unknown loss {to_toml(name)}"
                f"{did_you_mean(name, known)} (available: {', '.join(known)})"
            )
    if len(set(loss.names)) < len(loss.names):
        yield f"loss.names = {to_toml(loss.names)}: a loss appears twice; use loss.weights"
    yield from _same_length("loss.weights", loss.weights, "loss.names", loss.names)
    yield from _same_length("loss.schedules", loss.schedules, "loss.names", loss.names)
    if loss.weights and not any(loss.weights):
        yield f"loss.weights = {to_toml(loss.weights)}: at least one must be more than 0"


def _check_aggregation(config: Config) -> Iterator[str]:
    value = config.loss.aggregation
    where = f"loss.aggregation = {to_toml(value)}:"
    for problem in aggregation_problems(value):
        yield f"{where} {problem}{did_you_mean(value, [*WEIGHINGS[1:], *MIXTURES])}"
    if value in WEIGHINGS and "lexical" in config.loss.names and value:
        yield (
            f"{where} it weighs losses by gradients in the last decoder layer, where loss "
            '"lexical" has none; leave loss.aggregation empty or use gradmag'
        )
    if value and value in WEIGHINGS and config.student.train == "none" and config.training.steps:
        yield (
            f'{where} it balances gradients in the last decoder layer, but student.train = "none" '
            'trains no layer; leave loss.aggregation empty, or set student.train to "lora"'
        )


# Losses that need more of the teacher than a cache holds
LATENT_LOSSES = ("alm_latents", "alm_side_path", "dskd", "uld", "mined", "kd", "lexical")


def _check_baselines(config: Config) -> Iterator[str]:
    names = config.loss.names
    other = [name for name in names if name in LATENT_LOSSES]
    if config.teacher.cache and other:
        yield (
            f"teacher.cache holds log-probs only, but loss {to_toml(other[0])} needs the teacher's "
            "hidden states: name teacher.model instead, or use alm losses"
        )
    if "lexical" in names and not trains_vocabulary(config):
        yield (
            'student.train_embeddings = false leaves loss "lexical" nothing to train: set it to '
            "true, or leave the loss out"
        )
    if "mined" in names and not config.mined.mapping:
        yield (
            'mined.mapping is empty, but loss "mined" reads the map of tokens from there: name a '
            "file written by scripts/compute_mined_mapping.py"
        )
    if "alm_latents" in names and config.latents.project and "qkv" in config.latents.states:
        yield (
            f"latents.project = true with latents.states = {to_toml(config.latents.states)}: only "
            "hidden states are projected; leave qkv out"
        )
    if "alm_latents" in names and config.compile.enable and "qkv" in config.latents.states:
        yield (
            "compile.enable = true with latents.states including qkv: projections inside compiled "
            "layers cannot be read; set one of them differently"
        )


def _check_alm(config: Config) -> Iterator[str]:
    alm = config.alm
    if alm.diff_fn == "renyi" and alm.renyi_alpha == 1:
        yield "alm.renyi_alpha = 1.0: the Renyi divergence needs an order other than 1"
    if "alm_unbiased" in config.loss.names and not alm.pair_bias:
        yield (
            'alm.pair_bias is empty, but loss "alm_unbiased" reads the pair statistics of the two '
            "tokenizers from there"
        )


def _check_data(config: Config) -> Iterator[str]:
    data = config.data
    if config.training.steps and not data.train:
        yield "data.train is empty: name files or folders, or hf:dataset, to train on"
    yield from _same_length("data.weights", data.weights, "data.train", data.train)
    if data.weights and not any(data.weights):
        yield f"data.weights = {to_toml(data.weights)}: at least one must be more than 0"
    if config.eval.interval and not data.validation:
        yield (
            f"data.validation is empty, but eval.interval = {config.eval.interval}: name texts to "
            "validate on, or set eval.interval to 0"
        )


def _check_optimizer(config: Config) -> Iterator[str]:
    patterns, scales = config.optimizer.lr_scale_patterns, config.optimizer.lr_scales
    if len(patterns) != len(scales):  # both or none
        yield (
            f"optimizer.lr_scales has {len(scales)} entries, optimizer.lr_scale_patterns "
            f"{len(patterns)}: each pattern needs one scale"
        )
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            yield (
                f"optimizer.lr_scale_patterns: {to_toml(pattern)} is not a regular expression: "
                f"{error}"
            )


def _check_parallelism(config: Config, world_size: int) -> Iterator[str]:
    layout = config.parallelism
    replicate, tp = layout.data_parallel_replicate_degree, layout.tensor_parallel_degree
    shard = layout.data_parallel_shard_degree
    divisors = [n for n in range(1, world_size + 1) if world_size % n == 0]
    allowed = ", ".join(map(str, divisors))
    for name, degree in (
        ("tensor_parallel_degree", tp),
        ("data_parallel_replicate_degree", replicate),
        ("data_parallel_shard_degree", shard),
    ):
        if degree != -1 and degree not in divisors:
            also = " or -1" if name == "data_parallel_shard_degree" else ""
            yield (
                f"parallelism.{name} = {degree} does not divide the number of processes, "
                f"{world_size}: use {allowed}{also}, or start another number of processes"
            )
    if world_size % (replicate * tp):
        yield (
            f"parallelism.data_parallel_replicate_degree = {replicate} x tensor_parallel_degree = "
            f"{tp} does not divide the number of processes, {world_size}"
        )
    rest = world_size // (replicate * tp)
    if shard not in (-1, rest):
        yield (
            f"parallelism.data_parallel_shard_degree = {shard}: replicate {replicate} x shard "
            f"{shard} x tensor parallel {tp} is not the number of processes, {world_size}; use "
            f"{rest} or -1"
        )
    yield from _check_batch(config, replicate * rest)


def _check_batch(config: Config, dp_size: int) -> Iterator[str]:
    batch, micro = config.training.batch_size, config.training.micro_batch_size
    unit = micro * dp_size
    if batch % unit:
        works = [size for size in (batch // unit * unit, (batch // unit + 1) * unit) if size]
        # The largest micro-batch that the wished batch size allows, if any does.
        fitting = [size for size in range(micro, 0, -1) if batch % (size * dp_size) == 0]
        smaller = f", or training.micro_batch_size = {fitting[0]}" if fitting else ""
        yield (
            f"training.batch_size = {batch} is not divisible by micro_batch_size ({micro}) x "
            f"data-parallel ranks ({dp_size}) = {unit}: use a multiple of {unit}, such as "
            f"{' or '.join(map(str, works))}{smaller}"
        )


def _same_length(name: str, values: list, other: str, others: list) -> Iterator[str]:
    if values and len(values) != len(others):
        yield (
            f"{name} = {to_toml(values)} has {len(values)} entries, {other} has {len(others)}: "
            "give one for each, or leave it empty"
        )
