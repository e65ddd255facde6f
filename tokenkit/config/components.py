"""What components add to a config: sections of their own, and what cannot work.

A component (a loss, a balance, …) is registered by importing its module. The project's own and the
user's (``job.custom_import``) are imported in the same way, by name, before anything is read.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tokenkit.errors import ConfigError
from tokenkit.io import name_problem

BUILT_IN = ("tokenkit.losses", "tokenkit.balance", "tokenkit.transfer")
Problems = Callable[[Any], Iterator[str]]  # Config → lines

_sections: dict[str, type] = {}
_owners: dict[str, str] = {}  # of sections that a custom import brought, by its whole path
_importing: list[str] = []
_checks: list[Problems] = []
_listeners: list[Callable[[], None]] = []


def add_section(name: str, settings: type) -> None:
    """Let a dataclass of keys (see :func:`tokenkit.config.key`) be the TOML section ``[name]``.

    Several components may share a section and its dataclass.

    Raises:
        ValueError: if another dataclass has the section.
    """
    if _sections.setdefault(name, settings) is not settings:
        raise ValueError(f"section [{name}] is registered twice")
    if _importing:
        _owners.setdefault(name, _importing[-1])
    for listener in _listeners:
        listener()


def on_new_section(listener: Callable[[], None]) -> None:
    """Call ``listener`` whenever a section is added."""
    _listeners.append(listener)


def registered_sections() -> dict[str, type]:
    """Dataclass by section name, of all components."""
    for module in BUILT_IN:
        importlib.import_module(module)
    return _sections


def belongs(section: str, custom_imports: list[str]) -> bool:
    """Whether a section is for a config with these ``job.custom_import``: not if it came with
    another one of this process."""
    owner = _owners.get(section)
    return owner is None or owner in map(absolute_path, custom_imports)


def add_check(problems: Problems) -> None:
    """Have :func:`tokenkit.config.validate` ask ``problems`` too."""
    _checks.append(problems)


def component_problems(config: Any) -> Iterator[str]:
    """What registered components find wrong, a line each."""
    registered_sections()
    for problems in _checks:
        yield from problems(config)


def absolute_path(name: str) -> str:
    """A custom import as any folder may name it: files by their whole path."""
    return str(Path(name).expanduser().resolve()) if name.endswith(".py") else name


def import_custom(names: list[str]) -> None:
    """Import the user's modules, or Python files, which register their own components.

    Raises:
        ConfigError: if one cannot be imported.
    """
    registered_sections()  # the package's own first: they are nobody's
    for name in names:
        if not name:
            raise ConfigError("job.custom_import has an empty entry: name a module or a .py file")
        if problem := name_problem(name):
            raise ConfigError(f"job.custom_import = '{name}': {problem}")
        _importing.append(absolute_path(name))
        try:
            if name.endswith(".py"):
                _import_file(Path(name).expanduser())
            else:
                importlib.import_module(name)
        except (Exception, SystemExit) as error:
            kind = "" if isinstance(error, ImportError | OSError) else f"{type(error).__name__}: "
            raise ConfigError(
                f"job.custom_import: cannot import '{name}' ({kind}{error}); give a module on "
                "PYTHONPATH or the path of a Python file"
            ) from error
        finally:
            _importing.pop()


def _import_file(path: Path) -> None:
    """Import a file once, however often it is named."""
    where = str(path.resolve())
    name = f"tokenkit_custom_{hashlib.sha1(where.encode()).hexdigest()[:12]}"
    if name in sys.modules:
        return
    if not path.is_file():
        raise FileNotFoundError("no such file")
    spec = importlib.util.spec_from_file_location(name, where)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
