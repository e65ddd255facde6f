"""Ranks that do something together: all of them succeed, or all of them raise the same error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch.distributed as dist

from tokenkit.errors import TokenkitError

T = TypeVar("T")


class Agreement:
    """All ranks, in a group of their own: work in a thread must not meet training's collectives."""

    def __init__(self) -> None:
        self.group = dist.new_group(backend="gloo")
        self.rank, self.ranks = dist.get_rank(), dist.get_world_size()
        # A rank that fails later (bad data, say) must not break the others' connecting.
        dist.barrier(self.group)

    def gather(self, value: T) -> list[T]:
        """Every rank's value, on every rank."""
        values: list[Any] = [None] * self.ranks
        dist.all_gather_object(values, value, group=self.group)
        return values

    def first(self, function: Callable[[], T]) -> T:
        """What the function returns on rank 0, where alone it is called."""
        return self._run(function, self.rank == 0)[0]

    def together(self, function: Callable[[], T]) -> list[T]:
        """What the function returns on every rank."""
        return self._run(function, True)

    def _run(self, function: Callable[[], T], called: bool) -> list[T]:
        value: Any = None
        error = None
        if called:
            try:
                value = function()
            except TokenkitError as raised:
                error = raised
        values, errors = zip(*self.gather((value, error)), strict=True)
        failed = next(filter(None, errors), None)
        if failed is not None:
            raise failed
        return list(values)
