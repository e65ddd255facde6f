"""Degrees of parallelism that do not fit the ranks, each other, or the batch."""

from __future__ import annotations

from collections.abc import Iterator

from tokenkit.config.load import to_toml
from tokenkit.config.schema import Config


def check_parallelism(config: Config, world_size: int) -> Iterator[str]:
    """What of ``[parallelism]`` and ``[teacher.parallelism]`` cannot be, a line each."""
    layout = config.parallelism
    replicate, tp = layout.data_parallel_replicate_degree, layout.tensor_parallel_degree
    shard, context = layout.data_parallel_shard_degree, layout.context_parallel_degree
    divisors = [n for n in range(1, world_size + 1) if world_size % n == 0]
    allowed = ", ".join(map(str, divisors))
    for name, degree in (
        ("tensor_parallel_degree", tp),
        ("context_parallel_degree", context),
        ("data_parallel_replicate_degree", replicate),
        ("data_parallel_shard_degree", shard),
    ):
        if degree != -1 and degree not in divisors:
            also = " or -1" if name == "data_parallel_shard_degree" else ""
            yield (
                f"parallelism.{name} = {degree} does not divide the number of processes, "
                f"{world_size}: use {allowed}{also}, or start another number of processes"
            )
    others = f" x context_parallel_degree = {context}" if context > 1 else ""
    if world_size % (replicate * tp * context):
        yield (
            f"parallelism.data_parallel_replicate_degree = {replicate} x tensor_parallel_degree = "
            f"{tp}{others} does not divide the number of processes, {world_size}"
        )
    rest = world_size // (replicate * tp * context)
    if shard not in (-1, rest):
        also = f" x context parallel {context}" if context > 1 else ""
        yield (
            f"parallelism.data_parallel_shard_degree = {shard}: replicate {replicate} x shard "
            f"{shard} x tensor parallel {tp}{also} is not the number of processes, {world_size}; "
            f"use {rest} or -1"
        )
    yield from _check_batch(config, replicate * rest)
    yield from _check_teacher(config, world_size)


def _check_batch(config: Config, dp_size: int) -> Iterator[str]:
    batch, micro = config.training.batch_size, config.training.micro_batch_size
    unit = micro * dp_size
    if batch % unit:
        works = [size for size in (batch // unit * unit, (batch // unit + 1) * unit) if size]
        # The largest micro-batch that the wished batch size allows, if any does.
        fitting = [size for size in range(micro, 0, -1) if batch % (size * dp_size) == 0]
        smaller = f", or training.micro_batch_size = {fitting[0]}" if fitting else ""
        ranks = [n for n in range(dp_size, 0, -1) if batch % (micro * n) == 0]
        fewer = f", or start fewer processes, for {ranks[0]} such ranks" if ranks else ""
        yield (
            f"training.batch_size = {batch} is not divisible by micro_batch_size ({micro}) x "
            f"data-parallel ranks ({dp_size}) = {unit}: use a multiple of {unit}, such as "
            f"{' or '.join(map(str, works))}{smaller}{fewer}"
        )


def _check_teacher(config: Config, world_size: int) -> Iterator[str]:
    size, micro = config.teacher.micro_batch_size, config.training.micro_batch_size
    if size % micro:
        yield (
            f"teacher.micro_batch_size = {size}: the teacher's passes join whole micro-batches, so "
            f"use a multiple of training.micro_batch_size = {micro}, or 0"
        )
    own, layout = config.teacher.parallelism, config.parallelism
    for name, unset in (
        ("tensor_parallel_degree", 0),
        ("data_parallel_replicate_degree", 0),
        ("data_parallel_shard_degree", -1),
    ):
        value = getattr(own, name)
        if value == unset:
            continue
        where = f"teacher.parallelism.{name} = {value}"
        if not config.teacher.model or config.teacher.cache:
            what = (
                f"teacher.cache = {to_toml(config.teacher.cache)} is no model"
                if config.teacher.cache
                else "without teacher.model the teacher is the student as it was"
            )
            yield f"{where}: {what}; leave [teacher.parallelism] out"
        elif value == 0 or world_size % value:
            yield f"{where} does not divide the number of processes, {world_size}"
    shared = layout.tensor_parallel_degree * layout.context_parallel_degree
    tp = own.tensor_parallel_degree or shared
    if tp % shared:
        yield (
            f"teacher.parallelism.tensor_parallel_degree = {tp}: {shared} of the student's ranks "
            "(tensor x context parallel) have the same rows, so use a multiple of it, or 0"
        )
    replicate = own.data_parallel_replicate_degree or 1
    rest, shard = world_size // (tp * replicate), own.data_parallel_shard_degree
    if world_size % (tp * replicate) or shard not in (-1, rest):
        yield (
            f"[teacher.parallelism]: replicate {replicate} x shard {shard} x tensor parallel {tp} "
            f"is not the number of processes, {world_size}; change one of the degrees"
        )
