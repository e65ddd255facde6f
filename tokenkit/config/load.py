"""Loading and saving: defaults <- TOML file <- ``--section.key value``, nothing else.

Each value is checked against its field's type as it enters, so that an error can say where the
value came from. Whether values make sense together is for ``validate.py``.
"""

from __future__ import annotations

import difflib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

import tomli

from tokenkit.config.components import absolute_path, import_custom
from tokenkit.config.keys import KeyInfo, all_keys, config_tables, section_names, settings_of
from tokenkit.config.local_paths import where_the_run_lies
from tokenkit.config.recipes import no_such_file, settings_file, with_shipped_paths
from tokenkit.config.schema import Config
from tokenkit.errors import ConfigError
from tokenkit.io import new_file
from tokenkit.registry import did_you_mean

TYPE_NAMES = {
    bool: "true or false",
    int: "an integer",
    float: "a number",
    str: "a string",
    list[str]: 'a list of strings, as in ["a", "b"]',
    list[float]: "a list of numbers, as in [1.0, 2.0]",
}
MOST_DIGITS = 1000  # Python itself refuses to read integers of more than 4300
USAGE = (
    "usage: train.py [--job.config_file FILE.toml | RECIPE] "
    "[--section.key VALUE | --section.key=VALUE]... [--dry-run]"
)


def load_config(argv: list[str]) -> Config:
    """Resolve the settings of a run from command-line arguments (without the program's name).

    A bare boolean flag means true, lists are written ``a,b`` or ``["a", "b"]``, the last mention
    of a key wins. ``--help`` prints every key and exits with code 0.

    Raises:
        ConfigError: for an unknown section or key, a value of the wrong type, an argument that is
            not ``--section.key``, or a config file that is missing (neither a file nor a recipe
            that comes with tokenkit) or not TOML.
    """
    file = _last_value(argv, "job.config_file") or ""
    tables = _read_toml(file) if file else {}
    import_custom(_custom_imports(argv, tables))  # what they register may have sections
    if "--help" in argv or "-h" in argv:
        print(help_text())
        sys.exit(0)
    overrides = list(_parse_arguments(argv))
    config = Config()
    if file:
        _apply_tables(config, tables, origin=f"{file}: ")
        config = where_the_run_lies(config, file)
        # Only the command line says which file is read: a saved config names the one before.
        config.job.config_file = ""
    for name, value in overrides:
        _assign(config, name, value)
    # A run is exported from anywhere.
    config.job.custom_import = [absolute_path(name) for name in config.job.custom_import]
    return config


def _last_value(argv: list[str], name: str) -> str | None:
    """The text of a key's last mention; None without one."""
    found = None
    for place, argument in enumerate(argv):
        key, equals, text = argument.partition("=")
        if key == f"--{name}":
            following = argv[place + 1 : place + 2]
            value = text if equals else next(iter(following), "--")
            found = None if not equals and value.startswith("--") else value
    return found


def _custom_imports(argv: list[str], tables: dict[str, Any]) -> list[str]:
    """``job.custom_import``, before the rest of the config can be read."""
    name = "job.custom_import"
    given = _last_value(argv, name)
    if given is not None:
        value = _parse_text(all_keys()[name], given)
    else:
        job = tables.get("job", {})
        value = job.get("custom_import", []) if isinstance(job, dict) else []
    good = isinstance(value, list) and all(isinstance(item, str) for item in value)
    return value if good else []  # what is not good is refused where it is read


def config_from_dict(tables: dict[str, dict[str, Any]]) -> Config:
    """Build a config from ``{section: {key: value}}``; what is left out keeps its default.

    Raises:
        ConfigError: for an unknown section or key, or a value of the wrong type.
    """
    config = Config()
    _apply_tables(config, tables, origin="")
    return config


def save_config(config: Config, path: str | os.PathLike[str]) -> None:
    """Write every key as TOML that ``load_config`` reads back equal; replaces ``path`` at once."""
    lines = ["# Resolved settings of a run; use again with --job.config_file", ""]
    for section, values in config_tables(config).items():
        lines.append(f"[{section}]")
        lines += [f"{name} = {to_toml(value)}" for name, value in values.items()]
        lines.append("")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with new_file(path) as file:
        file.write("\n".join(lines))


def help_text() -> str:
    """Every key with type, default and documentation, grouped by section."""
    lines = [USAGE, ""]
    for section in section_names():
        summary = (type(settings_of(Config(), section)).__doc__ or "").splitlines()[0]
        lines.append(f"[{section}]  {summary}")
        for info in all_keys().values():
            if info.section == section:
                kind = info.type if get_args(info.type) else info.type.__name__
                lines.append(f"  --{info.full_name}  {kind}, default {to_toml(info.default)}")
                lines.append(f"      {info.metadata['doc']}")
        lines.append("")
    return "\n".join(lines)


def to_toml(value: Any) -> str:
    """A value in TOML's notation, for saved files and for messages."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        # JSON escapes are TOML escapes, except that TOML wants DEL escaped too.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, list):
        return f"[{', '.join(to_toml(item) for item in value)}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name} = {to_toml(item)}" for name, item in value.items()) + "}"
    return str(value)


def _read_toml(file: str) -> dict[str, Any]:
    try:
        tables = tomli.loads(settings_file(file).read_bytes().decode("utf-8-sig"))
        return with_shipped_paths(file, tables)
    except tomli.TOMLDecodeError as error:
        raise ConfigError(f"{file}:{error.lineno}: not valid TOML: {error}") from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ConfigError(f"{file}:{line}: not valid UTF-8, TOML must be") from None
    except (ValueError, RecursionError) as error:  # a number too long, brackets too deep
        raise ConfigError(f"{file}: not valid TOML: {error}") from None
    except FileNotFoundError:
        raise ConfigError(f"job.config_file: {no_such_file(file)}") from None
    except IsADirectoryError:
        raise ConfigError(f"job.config_file: {file} is a folder; name a TOML file in it") from None
    except OSError as error:
        raise ConfigError(f"job.config_file = {file}: cannot be read ({error.strerror})") from None


def _apply_tables(config: Config, tables: dict[str, Any], origin: str) -> None:
    for section, table in tables.items():
        if section not in section_names():
            raise ConfigError(origin + _unknown_section(section, table))
        if not isinstance(table, dict):
            raise ConfigError(
                f"{origin}{section} = {to_toml(table)}: '{section}' is a section; write its keys "
                f"below a line [{section}]"
            )
        for name, value in table.items():
            if f"{section}.{name}" in section_names():
                _apply_tables(config, {f"{section}.{name}": value}, origin)
                continue
            info = _find_key(f"{section}.{name}", value, origin)
            _assign(config, info.full_name, _check_type(info, value, origin))


def _assign(config: Config, full_name: str, value: Any) -> None:
    section, _, name = full_name.rpartition(".")
    setattr(settings_of(config, section), name, value)


def _parse_arguments(argv: list[str]) -> Iterator[tuple[str, Any]]:
    """Yield full key and checked value for each override in ``argv``."""
    origin, position = "command line: ", 0
    while position < len(argv):
        argument = argv[position]
        position += 1
        name, equals, text = argument.removeprefix("--").partition("=")
        if not argument.startswith("--") or "." not in name:
            raise ConfigError(origin + _not_an_override(argument, name))
        # A value follows, unless the next argument is another key.
        follows = position < len(argv) and not argv[position].startswith("--")
        info = _find_key(name, text if equals or not follows else argv[position], origin)
        if not equals:
            if follows:
                text = argv[position]
                position += 1
            elif info.type is bool:
                text = "true"
            else:
                raise ConfigError(
                    f"{origin}--{name} has no value; expected {TYPE_NAMES[info.type]} (a value "
                    f"that begins with -- is written --{name}=VALUE)"
                )
        yield info.full_name, _check_type(info, _parse_text(info, text), origin)


def _parse_text(info: KeyInfo, text: str) -> Any:
    """The value that ``text`` means for a key; the text itself if it means none of that type."""
    if info.type is bool:
        return {"true": True, "false": False}.get(text.lower(), text)
    if get_origin(info.type) is list:
        return _parse_list(info, text)
    for number in (int, float):
        if info.type in (int, float) and len(text) < MOST_DIGITS:
            try:
                return number(text)
            except ValueError:
                pass
    return text


def _parse_list(info: KeyInfo, text: str) -> Any:
    if text.startswith("[") and text.endswith("]"):
        try:
            return tomli.loads(f"value = {text}")["value"]
        except (ValueError, RecursionError):
            return text
    (element,) = get_args(info.type)
    items = text.split(",") if text else []
    if element is str:
        return items
    try:
        return [float(item) for item in items]
    except ValueError:
        return text


def _check_type(info: KeyInfo, value: Any, origin: str) -> Any:
    """``value`` as the key's type; an int may stand for a float, nothing else is converted."""
    try:
        if get_origin(info.type) is list:
            if not isinstance(value, list):
                raise TypeError
            (element,) = get_args(info.type)
            return [_check_scalar(element, item) for item in value]
        return _check_scalar(info.type, value)
    except TypeError:
        raise ConfigError(
            f"{origin}{info.full_name} = {to_toml(value)}: expected {TYPE_NAMES[info.type]}"
        ) from None
    except (OverflowError, UnicodeEncodeError) as error:
        problem = "too large" if isinstance(error, OverflowError) else "not valid UTF-8"
        raise ConfigError(f"{origin}{info.full_name}: the value is {problem}") from None


def _check_scalar(kind: Any, value: Any) -> Any:
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:  # type(), not isinstance: bool is an int for Python
        raise TypeError
    if kind is str:
        value.encode()  # a stray byte of the command line could not be written as TOML
    return value


def _find_key(full_name: str, value: Any, origin: str) -> KeyInfo:
    if full_name in all_keys():
        return all_keys()[full_name]
    section, _, name = full_name.rpartition(".")
    if section not in section_names():
        raise ConfigError(origin + _unknown_section(section, {name: value}))
    here = [info.name for info in all_keys().values() if info.section == section]
    raise ConfigError(
        f"{origin}unknown key '{full_name}' (value {to_toml(value)}){_suggestion(full_name)} "
        f"(keys of [{section}]: {', '.join(here)})"
    )


def _suggestion(full_name: str) -> str:
    """Did you mean: the same name in another section, or a similar one in this or any section."""
    section, _, name = full_name.rpartition(".")
    infos = list(all_keys().values())
    found = [info.full_name for info in infos if info.name == name]
    for group in ([info for info in infos if info.section == section], infos):
        if not found:
            names = {info.name: info.full_name for info in group}
            close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
            found = [names[match] for match in close]
    return f"; did you mean {' or '.join(map(repr, found))}?" if found else ""


def _unknown_section(section: str, table: Any) -> str:
    if not isinstance(table, dict):
        return f"key '{section}' (value {to_toml(table)}) is in no section{_suggestion(section)}"
    first = next(iter(table.items()), None)
    content = f" (with {section}.{first[0]} = {to_toml(first[1])})" if first else ""
    own = "; that of a loss of your own comes with its file in job.custom_import"
    close = did_you_mean(section, section_names()) or own
    return f"unknown section '{section}'{content}{close} (sections: {', '.join(section_names())})"


def _not_an_override(argument: str, name: str) -> str:
    message = f"argument '{argument}' is not --section.key"
    if argument.endswith(".toml"):
        return f"{message}; did you mean --job.config_file {argument}?"
    return message + _suggestion(name.lstrip("-")) + " (--help lists all keys)"
