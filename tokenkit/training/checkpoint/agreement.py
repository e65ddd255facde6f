"""Ranks that do something together: all of them succeed, or all of them raise the same error."""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Callable
from typing import Any, TypeVar

import torch.distributed as dist

from tokenkit.errors import TokenkitError
from tokenkit.parallelisms import Parallel

T = TypeVar("T")
_numbers = itertools.count()


class Agreement:
    """All ranks, by a connection of their own to the store that they met in.

    Work in a thread must not meet training's collectives, nor wait where they wait; and a group of
    processes more would be a connection more of each rank to every other.
    """

    def __init__(self, parallel: Parallel) -> None:
        self.store = dist.PrefixStore(f"agreement/{next(_numbers)}", parallel.store.clone())
        self.rank, self.ranks = dist.get_rank(), dist.get_world_size()
        self._round = 0

    def gather(self, value: T) -> list[T]:
        """Every rank's value, on every rank."""
        found: list[Any] = self._said(self.at_first(value))
        return found

    def at_first(self, value: T) -> list[T]:
        """Every rank's value on rank 0, where others' may be large; elsewhere nothing."""
        self._round += 1
        if self.rank:
            self.store.set(f"{self._round}/{self.rank}", pickle.dumps(value))
            return []
        return [value, *map(pickle.loads, self._of_others(""))]

    def _said(self, value: T) -> T:
        """Rank 0's value, on every rank; it ends a round."""
        key = f"{self._round}/said"
        if self.rank:
            said = pickle.loads(self.store.get(key))
            self.store.set(f"{self._round}/{self.rank}/heard", b"")
            return said
        if self.ranks > 1:
            self.store.set(key, pickle.dumps(value))
            # The store may end with rank 0, and rank 0 with what it says.
            self._of_others("/heard")
            self.store.delete_key(key)
        return value

    def _of_others(self, what: str) -> list[bytes]:
        """What the other ranks have set in this round, once all have."""
        keys = [f"{self._round}/{rank}{what}" for rank in range(1, self.ranks)]
        found = self.store.multi_get(keys) if keys else []
        for key in keys:
            self.store.delete_key(key)
        return found

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
