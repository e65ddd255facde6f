"""Tokenizer specs: ``path_or_id[:source=Family][:target=Family][:conversion=kind]``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from tokenkit.errors import TokenizerError
from tokenkit.registry import did_you_mean
from tokenkit.tokenizers.families import get_family

CONVERSIONS = ("byte", "prebyteified", "manual_add_prefix_space")
KEYS = ("source", "target", "conversion")

_OPTION = re.compile(r"([A-Za-z_]\w*)=(.*)", re.DOTALL)
_WINDOWS_DRIVE = re.compile(r"[A-Za-z]:[\\/]")
_HUB_REVISION = re.compile(r"([\w.-]+(?:/[\w.-]+)?)@([\w./-]+)")


@dataclass(frozen=True)
class TokenizerSpec:
    """A parsed spec.

    Attributes:
        path: local folder or hub id.
        source: family the tokenizer comes from; "" = derive it from its tokens.
        target: family whose tokens replace the markers; "" = the source's.
        conversion: "" or one of :data:`CONVERSIONS`.
        revision: hub revision (``org/name@revision``); "" = the default branch.
    """

    path: str
    source: str = ""
    target: str = ""
    conversion: str = ""
    revision: str = ""

    def __str__(self) -> str:
        name = f"{self.path}@{self.revision}" if self.revision else self.path
        options = [f":{key}={getattr(self, key)}" for key in KEYS if getattr(self, key)]
        return name + "".join(options)


def _split_path(text: str, spec: str) -> tuple[str, str]:
    """Separate a hub id from its ``@revision``; a local path may contain ``@`` and drive colons.

    Raises:
        TokenizerError: if the path is empty or has a colon that belongs to no option.
    """
    if not text:
        raise TokenizerError(
            f"tokenizer spec '{spec}' has no path or hub id before its first ':' "
            "(expected path_or_id[:source=Family][:target=Family][:conversion=kind])"
        )
    if Path(text).exists():
        return text, ""
    rest = text[2:] if _WINDOWS_DRIVE.match(text) else text
    if ":" in rest:
        part = rest[rest.index(":") + 1 :]
        raise TokenizerError(
            f"tokenizer spec '{spec}': part '{part}' is not of the form key=value "
            f"(keys: {', '.join(KEYS)})"
        )
    match = _HUB_REVISION.fullmatch(text)
    return (match[1], match[2]) if match else (text, "")


def parse_spec(spec: str) -> TokenizerSpec:
    """Parse a tokenizer spec.

    Options are read from the right, so a path may contain colons and equals signs
    (``C:\\models\\x:source=Qwen2``).

    Raises:
        TokenizerError: if a part is malformed, unknown or given twice; it names the part.
    """
    if not isinstance(spec, str):
        raise TokenizerError(f"tokenizer spec must be a string, not {spec!r}")
    parts = spec.strip().split(":")
    options: dict[str, str] = {}
    while len(parts) > 1 and (match := _OPTION.fullmatch(parts[-1])):
        key, value = match.groups()
        if key not in KEYS:
            raise TokenizerError(
                f"tokenizer spec '{spec}': unknown key '{key}' in part '{parts[-1]}'"
                f"{did_you_mean(key, list(KEYS))} (keys: {', '.join(KEYS)})"
            )
        if key in options:
            raise TokenizerError(f"tokenizer spec '{spec}': '{key}' is given twice")
        if not value:
            raise TokenizerError(f"tokenizer spec '{spec}': part '{key}=' has no value")
        options[key] = value
        parts.pop()
    path, revision = _split_path(":".join(parts), spec)
    for key in ("source", "target"):
        if key in options:
            try:
                get_family(options[key])
            except TokenizerError as error:
                raise TokenizerError(f"tokenizer spec '{spec}': {key}: {error}") from None
    conversion = options.get("conversion", "")
    if conversion and conversion not in CONVERSIONS:
        raise TokenizerError(
            f"tokenizer spec '{spec}': unknown conversion '{conversion}'"
            f"{did_you_mean(conversion, list(CONVERSIONS))} "
            f"(available: {', '.join(CONVERSIONS)})"
        )
    return TokenizerSpec(path, revision=revision, **options)
