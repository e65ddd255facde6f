"""Components by name: a decorator registers them, the TOML names them."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any

from tokenkit.errors import ConfigError


def did_you_mean(name: str, names: list[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the closest of ``names``, or an empty string."""
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    return f"; did you mean '{close[0]}'?" if close else ""


class Registry:
    """A table of components of one kind (losses, data sources, initialisers, …)."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._items: dict[str, Any] = {}

    def register(self, name: str) -> Callable[[Any], Any]:
        """Decorator that adds a component under ``name``; a name can be taken only once.

        A class with an attribute ``name`` is told its own.
        """

        def add(item: Any) -> Any:
            if name in self._items:
                raise ValueError(f"{self.kind} '{name}' is registered twice")
            self._items[name] = item
            if isinstance(item, type) and hasattr(item, "name"):
                item.name = name
            return item

        return add

    def get(self, name: str) -> Any:
        """Return the component called ``name``.

        Raises:
            ConfigError: if there is none; the message lists the names that exist.
        """
        if name not in self._items:
            names = self.names()
            raise ConfigError(
                f"unknown {self.kind} '{name}'{did_you_mean(name, names)} "
                f"(available: {', '.join(names)})"
            )
        return self._items[name]

    def names(self) -> list[str]:
        return sorted(self._items)

    def __contains__(self, name: str) -> bool:
        return name in self._items
