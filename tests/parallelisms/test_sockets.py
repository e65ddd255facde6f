"""Connections of a rank: to the store, and to the ranks that it speaks to in one group of all."""

from __future__ import annotations

import math

from tests.launch import train


def sockets(arguments: list[str], folder, world: int) -> list[int]:
    """Of each rank but the first, which may be the store's server, at the end of a run."""
    folder.mkdir()
    argv = [
        *arguments, "--training.batch_size", "6", "--training.micro_batch_size", str(6 // world),
        "--training.steps", "1", "--checkpoint.enable", "true",
        "--job.output_dir", str(folder / "run"),
    ]  # fmt: skip
    train(argv, world, folder / "log", program="tests.parallelisms.count_sockets")
    return [int((folder / f"sockets-{rank}").read_text()) for rank in range(1, world)]


def test_sockets_do_not_grow_with_the_ranks(base_arguments, tmp_path):
    two, six = (sockets(base_arguments, tmp_path / str(world), world) for world in (2, 6))
    # Store, the checkpoints' connection to it, three listening, and the other rank.
    assert max(two) <= 6
    # gloo connects ranks at distances 1, 2, 4, …; nothing else may be different.
    assert max(six) - 1 <= max(two) + math.ceil(math.log2(6))
