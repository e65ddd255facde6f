"""Chats: messages to neutral markers, text modes, and which tokens the loss counts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

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
from tokenkit.tokenizers.tokenizer import ByteifiedTokenizer

CHAT_MODES = (
    "surround_instruct",
    "direct_encode",
    "direct_encode_no_force_eos",
    "direct_encode_no_force_bos",
    "direct_encode_no_force_bos_no_force_eos",
)
LOSS_MODES = ("all", "assistant", "completion")


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


def _counted_parts(parts: list[str], loss_on: str) -> list[bool]:
    """For every part of a split text, whether the loss counts its tokens.

    A turn's content goes from the end of its header to the marker that closes it (inclusive).
    """
    roles: list[str | None] = []  # the role whose content (or closing marker) each part is
    turns: list[int] = []
    role: str | None = None
    turn = 0
    in_content = has_turns = False
    for part in parts:
        closes = in_content and part in (EOT, EOS)
        roles.append(role if in_content else None)
        turns.append(turn)
        if part in ROLE_MARKERS.values():
            role, in_content, has_turns = part, False, True
            turn += 1
        elif part == START_HEADER or closes:
            in_content = False
        elif part == END_HEADER:
            in_content = True
    if loss_on == "all" or not has_turns:
        return [True] * len(parts)
    counted = [role == ASSISTANT_NAME for role in roles]
    if loss_on == "completion":
        filled = zip(turns, counted, parts, strict=True)
        last = max((t for t, c, part in filled if c and part), default=-1)
        counted = [c and t == last for t, c in zip(turns, counted, strict=True)]
    return counted


def encode_batch_with_loss_mask(
    tok: ByteifiedTokenizer,
    marked_texts: Sequence[str],
    loss_on: str = "all",
    max_length: int | None = None,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Ids and loss masks of texts with neutral markers, all encoded in one call.

    Args:
        loss_on: ``all`` tokens; the contents of ``assistant`` turns with the token group that
            closes them; or ``completion``, the last of these. A text without turns counts whole.

    Returns:
        For each text int32 ids ``[T]`` and bool mask ``[T]``: True where the prediction of that
        token counts.

    Raises:
        ConfigError: if ``loss_on`` is unknown.
    """
    if loss_on not in LOSS_MODES:
        raise ConfigError(
            f"unknown loss_on '{loss_on}'{did_you_mean(loss_on, list(LOSS_MODES))} "
            f"(available: {', '.join(LOSS_MODES)})"
        )
    split = [tok.split(text) for text in marked_texts]
    encoded = tok.encode_parts(split, max_length)
    rows = []
    for parts, arrays in zip(split, encoded, strict=True):
        counted = _counted_parts(parts, loss_on)[: len(arrays)]
        mask = np.repeat(counted, [len(array) for array in arrays])
        rows.append((np.concatenate(arrays)[:max_length], mask[:max_length]))
    return rows


def encode_with_loss_mask(
    tok: ByteifiedTokenizer, marked_text: str, loss_on: str = "all", max_length: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """:func:`encode_batch_with_loss_mask` of one text."""
    return encode_batch_with_loss_mask(tok, [marked_text], loss_on, max_length)[0]
