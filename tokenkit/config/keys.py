"""Every key of every section: name, type, default, what it may be."""

from __future__ import annotations

import copy
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from operator import attrgetter
from typing import Any, get_type_hints

from tokenkit.config.components import belongs, on_new_section, registered_sections
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
        values = settings_of(defaults, section)
        types = get_type_hints(type(values))
        for f in fields(values):
            if is_dataclass(types[f.name]):
                continue
            info = KeyInfo(section, f.name, types[f.name], getattr(values, f.name), f.metadata)
            infos[info.full_name] = info
    return infos


@cache
def section_names() -> list[str]:
    """Names of the TOML sections, in order: the core's, then those of components.

    A section in another one ([teacher.parallelism]) has a dotted name.
    """
    names = []
    for section in fields(Config):
        names.append(section.name)
        inner = fields(getattr(Config(), section.name))
        types = get_type_hints(type(getattr(Config(), section.name)))
        names += [f"{section.name}.{f.name}" for f in inner if is_dataclass(types[f.name])]
    return names + list(registered_sections())


def settings_of(config: Config, section: str) -> Any:
    """The dataclass of a section's values."""
    return attrgetter(section)(config)


def value_of(config: Config, info: KeyInfo) -> Any:
    """A key's value."""
    return getattr(settings_of(config, info.section), info.name)


def config_tables(config: Config) -> dict[str, dict[str, Any]]:
    """``{section: {key: value}}``, from which ``config_from_dict`` makes an equal config.

    Sections of custom imports that this config does not have are left out: who reads the tables
    later will not know them.
    """
    names = [name for name in section_names() if belongs(name, config.job.custom_import)]
    tables: dict[str, dict[str, Any]] = {name: {} for name in names}
    for info in all_keys().values():
        if info.section in tables:
            tables[info.section][info.name] = copy.copy(value_of(config, info))
    return tables


on_new_section(all_keys.cache_clear)
on_new_section(section_names.cache_clear)
