"""Prompts with neutral markers, as the JAX reference writes them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from tokenkit.errors import ConfigError, DataError
from tokenkit.registry import did_you_mean
from tokenkit.tokenizers.alignment.locate import locate
from tokenkit.tokenizers.chat.writing import Part
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
from tokenkit.tokenizers.guard import well_formed
from tokenkit.tokenizers.rows import Document, EncodedRow, in_form
from tokenkit.tokenizers.tokenizer import ByteifiedTokenizer

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


def with_markers(row: Document) -> str:
    """A text as the reference's mode of its BOS and EOS writes it."""
    mode = "direct_encode" + "_no_force_bos" * (not row.bos) + "_no_force_eos" * (not row.eos)
    return apply_chat_mode(row.text, mode)


def encode_marked(tok: ByteifiedTokenizer, marked_text: str) -> EncodedRow:
    """A text with neutral markers, each marker a unit; ids as :meth:`ByteifiedTokenizer.encode`."""
    pieces: list[tuple] = []
    parts: list[Part] = []
    split = tok.split(marked_text)
    texts = tok.encode_texts(split[::2])
    for number, piece in enumerate(split):
        if number % 2 == 0:
            ids = texts[number // 2]
            data = in_form(well_formed(piece), tok.normal_form).encode()
            begin, end = locate(tok, ids, data)
            parts.append(Part("content", number, 0, 0, 0))
        else:
            ids = tok.marker_ids[piece]
            if ids is None:
                continue
            raw = [tok.token_bytes[i] for i in ids.tolist()]
            end = np.cumsum([len(r) for r in raw])
            begin, data = end - np.array([len(r) for r in raw]), b"".join(raw)
            parts.append(Part("unit", number, 0, 0, 0))
        pieces.append((ids, begin, end, np.ones(len(ids), bool), data))
    return replace(_join(pieces, parts), marked=True)


def _join(pieces: list[tuple], parts: list[Part]) -> EncodedRow:
    """Pieces ``(ids, begin, end, counted, data)`` one after another, a part for each."""
    offset, moved, begins, ends = 0, [], [], []
    for part, (_, begin, end, _, data) in zip(parts, pieces, strict=True):
        moved.append(part._replace(begin=offset, end=offset + len(data)))
        begins.append(np.where(begin < 0, -1, begin + offset))
        ends.append(np.where(end < 0, -1, end + offset))
        offset += len(data)
    ids, _, _, counted, data = zip(*pieces, strict=True)
    return EncodedRow(
        b"".join(data),
        np.concatenate(ids),
        np.concatenate(begins),
        np.concatenate(ends),
        np.concatenate(counted),
        lambda: moved,
    )
