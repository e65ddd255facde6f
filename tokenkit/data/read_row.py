"""One row of data as a text or a conversation; bad rows are refused by file and line."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tokenkit.data.row_formats import messages_of
from tokenkit.errors import ConfigError, DataError
from tokenkit.registry import did_you_mean
from tokenkit.tokenizers import CHAT_MODES, Conversation, Document, Row
from tokenkit.tokenizers.chat.places import contents_of

if TYPE_CHECKING:
    from tokenkit.config import Config


@dataclass(frozen=True)
class RowFormat:
    """How rows are read; from ``[data]`` and ``[chat]``."""

    text_field: str = "text"
    messages_field: str = "messages"
    text_mode: str = "direct_encode"
    tools_field: str = "tools"
    options_field: str = "chat_template_kwargs"

    @classmethod
    def of(cls, config: Config) -> RowFormat:
        data = config.data
        return cls(data.text_field, data.messages_field, config.chat.text_mode)


def _refuse(where: str, reason: str) -> DataError:
    return DataError(f"{where}: {reason}")


def _check_unicode(text: str, where: str) -> None:
    """JSON can spell half a character ("\\ud83d" alone), which no tokenizer can read."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise _refuse(
            where, f"character {error.start + 1} of the text is half of a surrogate pair"
        ) from error


def _some(names: Iterable[object], most: int = 8) -> str:
    """The first of some names."""
    found = list(map(str, names))
    rest = f" and {len(found) - most} more" if len(found) > most else ""
    return (", ".join(found[:most]) or "nothing") + rest


def _fields(row: Any, where: str, row_format: RowFormat) -> tuple[str | None, list | None]:
    """The row's text, or else its messages, with types checked."""
    if not isinstance(row, dict):
        raise _refuse(where, f"a row must be an object, not {type(row).__name__}")
    text, messages = row.get(row_format.text_field), row.get(row_format.messages_field)
    if text is None and messages is None:
        messages = messages_of(row, where)
    if text is None and messages is None:
        raise _refuse(
            where,
            f"neither '{row_format.text_field}' nor '{row_format.messages_field}' in the row, and "
            f"no other known format (it has {_some(row)}); see "
            "data.text_field and data.messages_field",
        )
    if text is not None and not isinstance(text, str):
        raise _refuse(where, f"'{row_format.text_field}' is {type(text).__name__}, not a string")
    if messages is None or (messages == [] and text is not None):
        return text, None
    if not isinstance(messages, list) or not all(isinstance(m, dict) for m in messages):
        raise _refuse(where, f"'{row_format.messages_field}' must be a list of objects")
    return None, messages


def _conversation(
    row: dict, messages: list[dict], where: str, row_format: RowFormat
) -> Conversation:
    """The messages as they are, once they are known to be well formed."""
    for number, message in enumerate(messages):
        role, content = message.get("role"), message.get("content")
        if not isinstance(role, str):
            raise _refuse(where, f"message {number}: role is {type(role).__name__}, not a string")
        if content is None and len(_without_none(message)) == 1:
            raise _refuse(where, f"message {number} needs the keys 'role' and 'content'")
        if not isinstance(content, str | list | None):
            raise _refuse(
                where,
                f"message {number}: content is {type(content).__name__}, not a string or a list "
                "of parts",
            )
    tools = _json(row.get(row_format.tools_field), list, row_format.tools_field, where)
    options = _json(row.get(row_format.options_field), dict, row_format.options_field, where)
    # Tables fill the keys that other rows have with None.
    chat = [_without_none(message) for message in messages]
    return Conversation(chat, tools or None, options or {}, where=where)


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        items = ((k, v if k == "arguments" else _without_none(v)) for k, v in value.items())
        return {k: v for k, v in items if v is not None}
    return [_without_none(item) for item in value] if isinstance(value, list) else value


def _json(value: Any, kind: Any, name: str, where: str) -> Any:
    """A column that holds a list or an object, or is one written as JSON."""
    if isinstance(value, str):
        try:
            value = json.loads(value) if value.strip() else None
        except ValueError as error:
            raise _refuse(where, f"'{name}' is a string, but no JSON ({error})") from error
    if value is not None and not isinstance(value, kind):
        wanted = {list: "a list", dict: "an object"}[kind]
        raise _refuse(where, f"'{name}' is {type(value).__name__}, not {wanted}")
    return value


def read_row(row: Any, where: str, row_format: RowFormat) -> Row | None:
    """The row's text or conversation; None if it says nothing (no text, or only blanks).

    Of a row with both, the conversation is read; of one with neither, what
    :mod:`tokenkit.data.row_formats` knows. ``text_mode`` says what a text is: the user's
    turn of a conversation that the assistant is to go on with, or a document.

    Args:
        where: file and line, for errors.

    Raises:
        ConfigError: if the text mode is unknown.
        DataError: if the row cannot be used.
    """
    mode = row_format.text_mode
    if mode not in CHAT_MODES:
        raise ConfigError(
            f"unknown chat mode '{mode}'{did_you_mean(mode, list(CHAT_MODES))} "
            f"(available: {', '.join(CHAT_MODES)})"
        )
    text, messages = _fields(row, where, row_format)
    if messages is not None:
        chat = _conversation(row, messages, where, row_format)
        content = "".join(found.text for found in contents_of(chat))
        _check_unicode(content, where)
        return chat if content.strip() else None
    _check_unicode(text, where)
    if not text.strip():
        return None
    if mode == "surround_instruct":
        return Conversation([{"role": "user", "content": text}], open=True, where=where)
    return Document(text, "no_force_bos" not in mode, "no_force_eos" not in mode, where=where)


def text_of(row: Row) -> str:
    """A text as it is; of a conversation the contents of its turns, joined by newlines."""
    if isinstance(row, Document):
        return row.text
    return "\n".join(content.text for content in contents_of(row))


def plain_text(row: Any, where: str, row_format: RowFormat) -> str:
    """The row's text without anything around it; "" for a row that says nothing.

    Raises:
        DataError: if the row cannot be used.
    """
    found = read_row(row, where, row_format)
    return "" if found is None else text_of(found)
