"""One row of data as a marked text; bad rows are refused by file and line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tokenkit.errors import DataError
from tokenkit.tokenizers import apply_chat_mode, messages_to_markers

if TYPE_CHECKING:
    from tokenkit.config import Config


@dataclass(frozen=True)
class RowFormat:
    """How rows are read; from ``[data]`` and ``[chat]``."""

    text_field: str = "text"
    messages_field: str = "messages"
    text_mode: str = "direct_encode"

    @classmethod
    def of(cls, config: Config) -> RowFormat:
        return cls(config.data.text_field, config.data.messages_field, config.chat.text_mode)


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


def _fields(row: Any, where: str, row_format: RowFormat) -> tuple[str | None, list | None]:
    """The row's text, or else its messages, with types checked."""
    if not isinstance(row, dict):
        raise _refuse(where, f"a row must be an object, not {type(row).__name__}")
    text, messages = row.get(row_format.text_field), row.get(row_format.messages_field)
    if text is None and messages is None:
        raise _refuse(
            where,
            f"neither '{row_format.text_field}' nor '{row_format.messages_field}' in the row "
            f"(it has {', '.join(map(str, row)) or 'nothing'}); see data.text_field and "
            "data.messages_field",
        )
    if text is not None and not isinstance(text, str):
        raise _refuse(where, f"'{row_format.text_field}' is {type(text).__name__}, not a string")
    if messages is None or (messages == [] and text is not None):
        return text, None
    if not isinstance(messages, list) or not all(isinstance(m, dict) for m in messages):
        raise _refuse(where, f"'{row_format.messages_field}' must be a list of objects")
    return None, messages


def _contents(messages: list[dict], where: str) -> list[str]:
    """What is said in a conversation, turn by turn, once it is known to be well formed."""
    for number, message in enumerate(messages):
        role = message.get("role")
        if not isinstance(role, str):
            raise _refuse(where, f"message {number}: role is {type(role).__name__}, not a string")
    try:
        messages_to_markers(messages)
    except DataError as error:
        raise _refuse(where, str(error)) from error
    return [message["content"] for message in messages]


def marked_text(row: Any, where: str, row_format: RowFormat) -> str:
    """The row with neutral markers; "" for a row that says nothing (no text, or only blanks).

    Conversations become turns; of a row with both, the conversation is read.

    Args:
        where: file and line, for errors.

    Raises:
        DataError: if the row cannot be used.
    """
    text, messages = _fields(row, where, row_format)
    content = text if messages is None else "".join(_contents(messages, where))
    _check_unicode(content, where)
    if not content.strip():
        return ""
    if messages is None:
        return apply_chat_mode(text, row_format.text_mode)
    return messages_to_markers(messages)


def plain_text(row: Any, where: str, row_format: RowFormat) -> str:
    """The row's text without any markers; of a conversation, the contents of its turns.

    Raises:
        DataError: if the row cannot be used.
    """
    text, messages = _fields(row, where, row_format)
    content = text if messages is None else "\n".join(_contents(messages, where))
    _check_unicode(content, where)
    return content if content.strip() else ""
