"""A run's settings as a person would write them: only what is not the default."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tokenkit.config.keys import all_keys, config_tables
from tokenkit.config.load import to_toml
from tokenkit.config.schema import Config


def short_toml(config: Config, shown: Callable[[Any], Any] = lambda value: value) -> str:
    """TOML that ``load_config`` reads back equal.

    Args:
        shown: what is written of each string, of those in lists too; default: the string itself.
    """
    keys, lines = all_keys(), []
    for section, values in config_tables(config).items():
        changed = {k: v for k, v in values.items() if v != keys[f"{section}.{k}"].default}
        if changed:
            lines += [f"[{section}]"]
            lines += [f"{name} = {to_toml(_each(value, shown))}" for name, value in changed.items()]
            lines += [""]
    return "\n".join(lines)


def _each(value: Any, shown: Callable[[Any], Any]) -> Any:
    if isinstance(value, list):
        return [_each(item, shown) for item in value]
    return shown(value) if isinstance(value, str) else value
