"""Every key of every section: name, type, default, what it may be."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cache
from typing import Any, get_type_hints

from tokenkit.config.components import on_new_section, registered_sections
from tokenkit.config.schema import Config


@dataclass(frozen=True)
class KeyInfo:
    """What is known about one key."""

    section: str
    name: str
    type: Any  # bool, int, float, str, list[str] or list[float]
    default: Any
    metadata: Any  # the mapping made by ``key``

    @property
    def full_name(self) -> str:
        return f"{self.section}.{self.name}"


@cache
def all_keys() -> dict[str, KeyInfo]:
    """Every key by its full name ("training.steps"), in the order of the schema."""
    defaults, infos = Config(), {}
    for section in section_names():
        values = getattr(defaults, section)
        types = get_type_hints(type(values))
        for f in fields(values):
            info = KeyInfo(section, f.name, types[f.name], getattr(values, f.name), f.metadata)
            infos[info.full_name] = info
    return infos


def section_names() -> list[str]:
    """Names of the TOML sections, in order: the core's, then those of components."""
    return [section.name for section in fields(Config)] + list(registered_sections())


on_new_section(all_keys.cache_clear)
