"""Components by name: a decorator registers them, the TOML names them."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Mapping
from typing import Any

from tokenkit.errors import ConfigError


def did_you_mean(name: str, names: list[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the closest of ``names``, or an empty string."""
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    return f"; did you mean '{close[0]}'?" if close else ""


class Registry:
    """A table of components of one kind (losses, data sources, initialisers, …).

    Args:
        built_in: name → module of components that are imported when one is asked for, because
            they take long to import; the names are known at once.
    """

    def __init__(self, kind: str, built_in: Mapping[str, str] | None = None) -> None:
        self.kind = kind
        self._built_in = dict(built_in or {})
        self._items: dict[str, Any] = {}

    def register(self, name: str) -> Callable[[Any], Any]:
        """Decorator that adds a component under ``name``; a name can be taken only once.

        A class with an attribute ``name`` is told its own.

        Raises:
            ValueError: if the name is taken.
        """

        def add(item: Any) -> Any:
            reserved = self._built_in.get(name, item.__module__) != item.__module__
            if name in self._items or reserved:
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
        if name not in self:
            names = self.names()
            raise ConfigError(
                f"unknown {self.kind} '{name}'{did_you_mean(name, names)} "
                f"(available: {', '.join(names)})"
            )
        if name not in self._items:
            importlib.import_module(self._built_in[name])
        return self._items[name]

    def names(self) -> list[str]:
        return sorted({*self._built_in, *self._items})

    def __contains__(self, name: str) -> bool:
        return name in self._items or name in self._built_in
