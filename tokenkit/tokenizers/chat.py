"""Prompts and chats in neutral markers, and which of their tokens a loss covers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tokenkit.errors import ConfigError, DataError
from tokenkit.tokenizers.alphabet import from_alphabet
from tokenkit.tokenizers.byteify import MAX_CHARS_PER_TOKEN, ByteifiedTokenizer
from tokenkit.tokenizers.families import (
    ASSISTANT,
    BOS,
    END_HEADER,
    EOS,
    EOT,
    ROLE_MARKERS,
    START_HEADER,
    USER,
    Family,
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


def messages_to_markers(messages: Sequence[dict[str, Any]]) -> str:
    """A conversation, ``[{"role": …, "content": …}, …]``, as one marked text.

    Raises:
        DataError: on a role other than system, user and assistant, or content that is no text.
    """
    parts = [BOS]
    for number, message in enumerate(messages):
        role, content = message.get("role"), message.get("content")
        if role not in ROLE_MARKERS:
            raise DataError(
                f"message {number}: unknown role {role!r} (roles: {', '.join(ROLE_MARKERS)})"
            )
        if not isinstance(content, str):
            raise DataError(f"message {number}: content is {type(content).__name__}, not a string")
        parts.append(f"{_header(ROLE_MARKERS[role])}{content}{EOT}")
    return "".join(parts)


def apply_chat_mode(text: str, mode: str) -> str:
    """A plain text as a marked one.

    "surround_instruct" makes it a user turn before an assistant's; the "direct_encode" modes put
    BOS before and EOS after it, where it has none yet and ``mode`` does not say otherwise.
    """
    if mode not in CHAT_MODES:
        raise ConfigError(f"unknown chat mode '{mode}' (modes: {', '.join(CHAT_MODES)})")
    if mode == "surround_instruct":
        return f"{BOS}{_header(USER)}{text}{EOT}{_header(ASSISTANT)}"
    if "no_force_bos" not in mode and not text.startswith(BOS):
        text = BOS + text
    if "no_force_eos" not in mode and not text.endswith((EOT, EOS)):
        text = text + EOS
    return text


def _turn_flags(segments: list[str], loss_on: str) -> list[bool]:
    """Per segment, whether the loss covers it: what an assistant says and the end of its turn."""
    flags, answers = [False] * len(segments), []
    role, inside, begin = None, False, 0
    for number, segment in enumerate(segments):
        if segment in ROLE_MARKERS.values() and not inside:
            role = segment
        elif segment == END_HEADER and role == ASSISTANT:
            inside, begin = True, number + 1
        elif segment == EOT:
            if inside:
                answers.append((begin, number + 1))
            role, inside = None, False
    if inside:
        answers.append((begin, len(segments)))
    for begin, end in answers[-1:] if loss_on == "completion" else answers:
        flags[begin:end] = [True] * (end - begin)
    return flags


def encode_batch_with_loss_mask(
    tok: ByteifiedTokenizer,
    marked_texts: Sequence[str],
    loss_on: str,
    max_length: int | None = None,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Ids (int32) and loss mask (bool) of each text, at most ``max_length`` tokens.

    Args:
        loss_on: "all" tokens; "assistant": what assistants say, with the tokens that end their
            turns; "completion": only the last such turn. Texts without turns are covered whole.
    """
    if max_length is not None:
        marked_texts = [text[: MAX_CHARS_PER_TOKEN * max_length] for text in marked_texts]
    rows = [tok.split(text) for text in marked_texts]
    results = []
    empty = np.zeros(0, dtype=np.int32)
    for segments, encoded in zip(rows, tok.encode_segments(rows), strict=True):
        flags = [True] * len(segments)
        if loss_on != "all" and END_HEADER in segments:
            flags = _turn_flags(segments, loss_on)
        mask = np.repeat(np.array(flags, dtype=bool), [len(ids) for ids in encoded])
        ids = np.concatenate([empty, *encoded])
        results.append((ids[:max_length], mask[:max_length]))
    return results


def encode_with_loss_mask(
    tok: ByteifiedTokenizer, marked_text: str, loss_on: str, max_length: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """One text; see :func:`encode_batch_with_loss_mask`."""
    return encode_batch_with_loss_mask(tok, [marked_text], loss_on, max_length)[0]


def chat_template(family: Family) -> str:
    """A Jinja template that renders what :func:`messages_to_markers` encodes to."""

    def text(marker: str) -> str:
        tokens = family.replacements[marker] or ()
        data = b"".join(from_alphabet(token) for token in tokens)
        return data.decode("utf-8").replace("\n", "\\n")

    roles = ", ".join(f"'{role}': '{text(marker)}'" for role, marker in ROLE_MARKERS.items())
    header = f"'{text(START_HEADER)}' + roles[{{}}] + '{text(END_HEADER)}'"
    return (
        f"{{%- set roles = {{{roles}}} -%}}"
        f"{{{{- '{text(BOS)}' -}}}}"
        "{%- for message in messages -%}"
        f"{{{{- {header.format('message.role')} + message.content + '{text(EOT)}' -}}}}"
        "{%- endfor -%}"
        f"{{%- if add_generation_prompt -%}}{{{{- {header.format(repr('assistant'))} -}}}}"
        "{%- endif -%}"
    )
