"""Impossible settings, found before anything is loaded, downloaded or started.

Each check yields one line per problem; the first one is raised. Values that depend on no other
key are checked from the schema (``validate_values.py``), local files and folders in
``validate_paths.py``, what must be installed in ``validate_installed.py``. Settings that
are possible but do nothing are in ``effects.py``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from tokenkit.config.components import component_problems
from tokenkit.config.keys import all_keys, value_of
from tokenkit.config.load import to_toml
from tokenkit.config.local_paths import tokenizer_path
from tokenkit.config.schema import Config
from tokenkit.config.settle import settle
from tokenkit.config.validate_hypernet import check_hypernet, check_sampler, trains_vocabulary
from tokenkit.config.validate_installed import check_installed
from tokenkit.config.validate_layout import check_parallelism
from tokenkit.config.validate_paths import check_paths, conversions
from tokenkit.config.validate_values import check_values
from tokenkit.errors import ConfigError


def validate(config: Config, world_size: int) -> None:
    """Check everything that needs no network.

    Args:
        config: the settings; their types are right already (``load_config`` saw to it).
        world_size: number of processes of the run.

    Raises:
        ConfigError: one line that names the key, its value and what would be right.
    """
    settled = config.copy()
    settle(settled, world_size)
    for problem in _problems(settled, world_size):
        raise ConfigError(problem)


def _problems(config: Config, world_size: int) -> Iterator[str]:
    for info in all_keys().values():
        yield from check_values(info, value_of(config, info))
    yield from _check_student(config)
    yield from _check_teacher(config)
    yield from _check_weights(config)
    yield from component_problems(config)
    yield from check_hypernet(config)
    yield from check_sampler(config)
    yield from _check_data(config)
    yield from _check_optimizer(config)
    yield from check_parallelism(config, world_size)
    yield from check_paths(config)
    yield from check_installed(config)


def _check_student(config: Config) -> Iterator[str]:
    student, training = config.student, config.training
    if not student.model:
        yield "student.model is empty: give a hub id or a local folder"
    if not student.tokenizer:
        example = student.model or "org/name"
        yield f'student.tokenizer is empty: give a spec such as "{example}:source=Llama3"'
    if student.expand_input_ids:
        yield from _check_expansion(config)
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


def _check_expansion(config: Config) -> Iterator[str]:
    student, where = config.student, "student.expand_input_ids = true"
    if "byte" not in conversions(student.target_tokenizer):
        yield (
            f"{where} with student.target_tokenizer = {to_toml(student.target_tokenizer)}: only "
            "bytes are expanded; give a spec that ends in :conversion=byte"
        )
    if "byte" in conversions(student.tokenizer):
        yield (
            f"{where} with student.tokenizer = {to_toml(student.tokenizer)}: bytes are expanded by "
            "subwords, so name the tokenizer that the model was trained with"
        )
    if config.tokenizer_sampler.enable or config.hypernet.architecture:
        yield (
            f"{where} with a hypernetwork: leave hypernet.architecture and "
            "tokenizer_sampler.enable at their defaults"
        )


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


def _check_weights(config: Config) -> Iterator[str]:
    loss = config.loss
    if not loss.names and config.training.steps:
        yield 'loss.names is empty: name at least one loss, such as "sft"'
    if len(set(loss.names)) < len(loss.names):
        yield f"loss.names = {to_toml(loss.names)}: a loss appears twice; use loss.weights"
    yield from _same_length("loss.weights", loss.weights, "loss.names", loss.names)
    yield from _same_length("loss.schedules", loss.schedules, "loss.names", loss.names)
    if loss.weights and not any(loss.weights):
        yield f"loss.weights = {to_toml(loss.weights)}: at least one must be more than 0"


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
    if config.profiling.enable and config.profiling.start_step >= config.training.steps:
        yield (
            f"profiling.start_step = {config.profiling.start_step} is beyond training.steps = "
            f"{config.training.steps}, so no step would be in the trace: start earlier"
        )
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            yield (
                f"optimizer.lr_scale_patterns: {to_toml(pattern)} is not a regular expression: "
                f"{error}"
            )


def _same_length(name: str, values: list, other: str, others: list) -> Iterator[str]:
    if values and len(values) != len(others):
        yield (
            f"{name} = {to_toml(values)} has {len(values)} entries, {other} has {len(others)}: "
            "give one for each, or leave it empty"
        )
