"""One row of data as a marked text; bad rows are refused by file and line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tokenkit.errors import DataError
from tokenkit.tokenizers import apply_chat_mode, messages_to_markers


@dataclass(frozen=True)
class RowFormat:
    """How rows are read; from ``[data]`` and ``[chat]``."""

    text_field: str = "text"
    messages_field: str = "messages"
    text_mode: str = "direct_encode"


def _refuse(where: str, reason: str) -> DataError:
    return DataError(f"{where}: {reason}")


def _fields(row: Any, where: str, row_format: RowFormat) -> tuple[str | None, list | None]:
    if isinstance(row, str):  # a text file
        return row, None
    if not isinstance(row, dict):
        raise _refuse(where, f"a row must be an object, not {type(row).__name__}")
    text, messages = row.get(row_format.text_field), row.get(row_format.messages_field)
    if messages is not None:
        if not isinstance(messages, list) or not all(isinstance(m, dict) for m in messages):
            raise _refuse(where, f"'{row_format.messages_field}' must be a list of objects")
        return None, messages
    if text is None:
        raise _refuse(
            where,
            f"neither '{row_format.text_field}' nor '{row_format.messages_field}' in the row "
            f"(it has {', '.join(map(str, row)) or 'nothing'}); see data.text_field",
        )
    if not isinstance(text, str):
        raise _refuse(where, f"'{row_format.text_field}' is {type(text).__name__}, not a string")
    return text, None


def marked_text(row: Any, where: str, row_format: RowFormat) -> str:
    """The row with neutral markers; "" for a row without any text.

    Args:
        where: file and line, for errors.

    Raises:
        DataError: if the row cannot be used.
    """
    text, messages = _fields(row, where, row_format)
    if messages is None:
        return apply_chat_mode(text, row_format.text_mode) if text else ""
    try:
        marked = messages_to_markers(messages)
    except DataError as error:
        raise _refuse(where, str(error)) from error
    return marked if any(message["content"] for message in messages) else ""


def plain_text(row: Any, where: str, row_format: RowFormat) -> str:
    """The row's text without any markers; of a chat, the contents of its turns."""
    text, messages = _fields(row, where, row_format)
    if messages is None:
        return text
    marked_text(row, where, row_format)  # refuses bad messages
    return "\n".join(message["content"] for message in messages)
