"""Prompts with neutral markers, as the JAX reference writes them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tokenkit.errors import ConfigError, DataError
from tokenkit.registry import did_you_mean
from tokenkit.tokenizers.families import (
    ASSISTANT_NAME,
    BOS,
    END_HEADER,
    EOS,
    EOT,
    ROLE_MARKERS,
    START_HEADER,
    USER_NAME,
)

CHAT_MODES = (
    "surround_instruct",
    "direct_encode",
    "direct_encode_no_force_eos",
    "direct_encode_no_force_bos",
    "direct_encode_no_force_bos_no_force_eos",
)


def _header(role_marker: str) -> str:
    return f"{START_HEADER}{role_marker}{END_HEADER}"


def messages_to_markers(messages: Iterable[Mapping[str, Any]]) -> str:
    """A chat as text with neutral markers.

    Args:
        messages: mappings with ``role`` (system, user or assistant) and ``content``.

    Raises:
        DataError: if a message lacks a key or has an unknown role.
    """
    text = BOS
    for message in messages:
        if not isinstance(message, Mapping) or "role" not in message or "content" not in message:
            raise DataError(f"a message needs the keys 'role' and 'content', not {message!r}")
        role, content = message["role"], message["content"]
        if role not in ROLE_MARKERS:
            raise DataError(f"unknown role {role!r} (allowed: {', '.join(ROLE_MARKERS)})")
        if not isinstance(content, str):
            raise DataError(f"the content of a message must be text, not {type(content).__name__}")
        text += f"{_header(ROLE_MARKERS[role])}{content}{EOT}"
    return text


def apply_chat_mode(text: str, mode: str) -> str:
    """Add the markers that ``[chat] text_mode`` asks for.

    ``surround_instruct`` makes the text a user's turn and opens the assistant's. The others add
    BOS before and EOS behind the text unless they are there, or leave one or both out.

    Raises:
        ConfigError: if the mode is unknown.
    """
    if mode not in CHAT_MODES:
        raise ConfigError(
            f"unknown chat mode '{mode}'{did_you_mean(mode, list(CHAT_MODES))} "
            f"(available: {', '.join(CHAT_MODES)})"
        )
    if mode == "surround_instruct":
        return f"{BOS}{_header(USER_NAME)}{text}{EOT}{_header(ASSISTANT_NAME)}"
    if "no_force_bos" not in mode and not text.startswith(BOS):
        text = BOS + text
    if "no_force_eos" not in mode and not text.endswith((EOT, EOS)):
        text += EOS
    return text
