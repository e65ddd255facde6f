"""A run owns its output directory: same config resumes, another config is refused."""

from __future__ import annotations

import fnmatch
import os
import shutil
from pathlib import Path

from tokenkit.config import (
    Config,
    config_tables,
    load_config,
    save_config,
    with_whole_paths,
)
from tokenkit.errors import CheckpointError, ConfigError
from tokenkit.life import restarted
from tokenkit.log import warn_once
from tokenkit.training.checkpoint import list_steps, open_checkpoint
from tokenkit.training.environment import on_first_rank
from tokenkit.training.run_lock import RunLock

# What may change between a run and its continuation, because it does not change what is learned.
FREE_KEYS = [
    "job.config_file",
    "job.output_dir",
    "job.*_timeout_minutes",
    "parallelism.*",
    "training.accumulate",
    "training.gc_interval",
    "training.max_skipped",
    "training.micro_batch_size",
    "training.steps",
    "training.threads",
    "checkpoint.*",
    "metrics.*",
    "eval.*",
    "profiling.*",
    "compile.*",
    "activation_checkpoint.*",
    "data.deal",
    "data.num_workers",
    "data.pad_multiple",
    "data.validation",
    "student.attn_implementation",
    "teacher.micro_batch_size",
    "teacher.parallelism.*",
    "optimizer.fused",
    "optimizer.state_dtype",
]


def flatten(config: Config) -> dict[str, object]:
    """``{"section.key": value}``."""
    return {
        f"{section}.{key}": value
        for section, values in config_tables(config).items()
        for key, value in values.items()
    }


def places(config: Config) -> dict[str, object]:
    """The same, with local paths as where they lead."""
    return flatten(with_whole_paths(config, os.path.realpath))


def overwrites(config: Config) -> bool:
    """Whether to start afresh: not where torchrun starts the same run again after a failure."""
    return config.checkpoint.overwrite and not restarted()


def check_output_dir(config: Config) -> None:
    """Refuse an output directory that holds the checkpoints of a run with another config.

    Reads only. Called on every rank before the process group starts.

    Raises:
        ConfigError: naming the first key that differs.
        CheckpointError: if checkpoints lie there without a config.
    """
    folder = Path(config.job.output_dir)
    root = folder / "checkpoints"
    if root.exists() and not root.is_dir():
        raise CheckpointError(f"job.output_dir = '{folder}': '{root}' is a file, not a folder")
    if not list_steps(root) or config.checkpoint.overwrite:
        return
    saved_path = folder / "config.toml"
    if not saved_path.is_file():
        raise CheckpointError(
            f"job.output_dir = '{folder}' holds checkpoints but no config.toml; choose a new "
            "folder or pass --checkpoint.overwrite true"
        )
    # Before the saved one brings sections of its own
    now, places_now = flatten(config), places(config)
    before = load_config(["--job.config_file", str(saved_path)])
    saved, places_saved = flatten(before), places(before)
    for key, value in now.items():
        free = any(fnmatch.fnmatch(key, pattern) for pattern in FREE_KEYS)
        # A place may be named otherwise; one that is gone has nothing but its name.
        same = saved.get(key) == value or places_saved.get(key) == places_now[key]
        if not (free or same):
            raise ConfigError(
                f"job.output_dir = '{folder}' belongs to another run ({key} was "
                f"{saved.get(key)!r}, now {value!r}); choose a new folder (with its weights: "
                "--checkpoint.initial_load), or pass --checkpoint.overwrite true to discard its "
                "checkpoints"
            )
    if saved["training.steps"] != config.training.steps:
        warn_once(
            f"training.steps was {saved['training.steps']}, now {config.training.steps}: "
            "the rest of the learning-rate schedule changes"
        )


def claim_output_dir(config: Config, lock: RunLock) -> None:
    """Take an output directory that is there; a new one is made when all else was found good.

    Raises:
        ConfigError: on every rank, if another run has it.
        CheckpointError: on every rank, if a new run cannot begin with ``checkpoint.initial_load``.
    """

    def claim() -> None:
        if lock.folder.is_dir():
            lock.take()
        name = config.checkpoint.initial_load
        if name and (overwrites(config) or not list_steps(lock.folder / "checkpoints")):
            if overwrites(config) and lock.folder.resolve() in [
                Path(name).resolve(),
                *Path(name).resolve().parents,
            ]:
                raise ConfigError(
                    f"checkpoint.initial_load = '{name}' lies in job.output_dir, which "
                    "checkpoint.overwrite = true would empty; choose another output_dir"
                )
            open_checkpoint(name, config.checkpoint.verify)

    on_first_rank(claim)


def open_output_dir(config: Config, lock: RunLock) -> Path:
    """The output directory, taken for this run and prepared; called on every rank.

    Raises:
        ConfigError: on every rank, if another run has it or it cannot be written.
    """

    def take_and_prepare() -> None:
        lock.take()
        prepare_output_dir(config)

    on_first_rank(take_and_prepare)
    return lock.folder


def prepare_output_dir(config: Config) -> Path:
    """Create the output directory and save the resolved config in it (rank 0 only).

    Checkpoints and metrics of an earlier run are removed only under ``checkpoint.overwrite``.
    """
    folder = Path(config.job.output_dir)
    if overwrites(config):
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        shutil.rmtree(folder / "tensorboard", ignore_errors=True)
        for name in ("metrics.jsonl", "wandb_id"):
            (folder / name).unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    saved = with_whole_paths(config)  # it is exported and compared from anywhere
    saved.checkpoint.overwrite = False
    save_config(saved, folder / "config.toml")
    return folder
