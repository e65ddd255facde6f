"""Settings that depend on how many processes a run has."""

from __future__ import annotations

from tokenkit.config.schema import Config


def rows_at_once(config: Config, dp_size: int) -> int:
    """Rows of a micro-batch: ``training.micro_batch_size``; where it is 0, all of a rank's rows."""
    training = config.training
    return training.micro_batch_size or max(1, training.batch_size // max(1, dp_size))


def settle(config: Config, world_size: int) -> None:
    """Put numbers in the place of 0 where the number of processes gives them."""
    layout = config.parallelism
    shared = layout.tensor_parallel_degree * layout.context_parallel_degree
    ranks = world_size // max(1, shared)
    config.training.micro_batch_size = rows_at_once(config, ranks)
