"""Tokenizer specs: ``path_or_id[:source=Family][:target=Family][:conversion=kind]``."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tokenkit.errors import TokenizerError
from tokenkit.registry import did_you_mean
from tokenkit.tokenizers.families import FAMILIES

OPTIONS = ("source", "target", "conversion")
CONVERSIONS = ("byte", "prebyteified", "manual_add_prefix_space")


@dataclass(frozen=True)
class TokenizerSpec:
    """A parsed spec; ``source`` is empty if it is to be derived from the tokenizer."""

    path: str
    source: str = ""
    target: str = ""
    conversion: str = ""

    def __str__(self) -> str:
        options = [f":{key}={getattr(self, key)}" for key in OPTIONS if getattr(self, key)]
        return self.path + "".join(options)


def _check(spec: str, key: str, value: str, allowed: list[str]) -> None:
    if value not in allowed:
        raise TokenizerError(
            f"tokenizer spec '{spec}': unknown {key} '{value}'{did_you_mean(value, allowed)} "
            f"(available: {', '.join(allowed)})"
        )


def parse_spec(spec: str) -> TokenizerSpec:
    """Parse a spec. Colons of Windows drives and ``@revision`` belong to the path.

    Raises:
        TokenizerError: saying which part is wrong.
    """
    drive = re.match(r"[A-Za-z]:[\\/]", spec)
    start = len(drive.group()) if drive else 0
    path, *parts = spec[start:].split(":")
    path = spec[:start] + path
    if not path:
        raise TokenizerError(f"tokenizer spec '{spec}': the path or hub id before ':' is missing")
    found: dict[str, str] = {}
    for part in parts:
        key, equals, value = part.partition("=")
        if not equals or not value:
            raise TokenizerError(
                f"tokenizer spec '{spec}': '{part}' is not of the form key=value "
                f"(keys: {', '.join(OPTIONS)})"
            )
        _check(spec, "key", key, list(OPTIONS))
        if key in found:
            raise TokenizerError(f"tokenizer spec '{spec}': '{key}' is given twice")
        allowed = CONVERSIONS if key == "conversion" else FAMILIES
        _check(spec, "conversion" if key == "conversion" else "family", value, list(allowed))
        found[key] = value
    return TokenizerSpec(path, **found)
