"""Rows as common data sets have them, read as conversations.

Which format a row has is told by its fields alone:

- ``prompt`` and ``completion``, texts or lists of messages (as TRL has them);
- ``conversations`` of ``from`` and ``value`` (ShareGPT), or of ``role`` and ``content``;
- ``instruction``, ``output`` and perhaps ``input`` (Alpaca).

A field ``system`` beside the last two is the system's message.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from tokenkit.errors import DataError

Messages = list[dict[str, Any]]

# What ShareGPT data sets call the roles
ROLES = {
    "human": "user", "user": "user",
    "gpt": "assistant", "assistant": "assistant", "model": "assistant", "chatgpt": "assistant",
    "bing": "assistant", "bard": "assistant",
    "system": "system",
    "tool": "tool", "observation": "tool", "function_response": "tool",
}  # fmt: skip
CALLS = ("function_call", "tool_call")


def messages_of(row: dict[str, Any], where: str) -> Messages | None:
    """The row's messages; None if it has none of these formats.

    Raises:
        DataError: if it has several of them, or one whose fields are missing or of a wrong type.
    """
    found = [name for name in FORMATS if row.get(name) is not None]
    if not found:
        return None
    if len(found) > 1:
        raise DataError(
            f"{where}: the row has '{found[0]}' and '{found[1]}', fields of different formats; "
            "name one column with data.text_field or data.messages_field"
        )
    return FORMATS[found[0]](row, where)


def _text(row: dict[str, Any], name: str, where: str, other: str = "") -> str:
    value = row.get(name)
    if value is None and other:
        raise DataError(f"{where}: the row has '{other}', but no '{name}'")
    if value is not None and not isinstance(value, str):
        raise DataError(f"{where}: '{name}' is {type(value).__name__}, not a string")
    return value or ""


def _with_system(row: dict[str, Any], messages: Messages, where: str) -> Messages:
    system = _text(row, "system", where)
    begins = bool(messages) and messages[0].get("role") == "system"
    return [{"role": "system", "content": system}, *messages] if system and not begins else messages


def _prompt_completion(row: dict[str, Any], where: str) -> Messages:
    if isinstance(row["prompt"], list) and isinstance(row.get("completion"), list):
        return row["prompt"] + row["completion"]
    prompt = _text(row, "prompt", where)
    return _turns(prompt, _text(row, "completion", where, other="prompt"))


def _alpaca(row: dict[str, Any], where: str) -> Messages:
    asked = [_text(row, name, where) for name in ("instruction", "input")]
    answer = _text(row, "output", where, other="instruction")
    turns = _turns("\n\n".join(filter(None, asked)), answer)
    return _with_system(row, turns, where)


def _turns(question: str, answer: str) -> Messages:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def _conversations(row: dict[str, Any], where: str) -> Messages:
    turns = row["conversations"]
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise DataError(f"{where}: 'conversations' must be a list of objects")
    messages = [_turn(turn, f"{where}: turn {number}") for number, turn in enumerate(turns)]
    return _with_system(row, messages, where)


def _turn(turn: dict[str, Any], where: str) -> dict[str, Any]:
    if turn.get("from") is None and turn.get("role") is not None:
        return turn  # messages under another name
    role, value = turn.get("from"), turn.get("value")
    if not isinstance(value, str):
        raise DataError(f"{where}: 'value' is {type(value).__name__}, not a string")
    if role in CALLS:
        return {"role": "assistant", "content": "", "tool_calls": _calls(value, where)}
    if role not in ROLES:
        raise DataError(f"{where}: 'from' is {role!r}; expected one of {', '.join(ROLES)}")
    return {"role": ROLES[role], "content": value}


def _calls(value: str, where: str) -> list[dict[str, Any]]:
    """Calls of tools, written as a JSON object of name and arguments or a list of them."""
    try:
        calls = json.loads(value)
    except ValueError as error:
        raise DataError(f"{where}: the call of a tool is no JSON ({error})") from error
    calls = calls if isinstance(calls, list) else [calls]
    if not all(isinstance(call, dict) and isinstance(call.get("name"), str) for call in calls):
        raise DataError(f"{where}: the call of a tool needs a 'name'")
    return [{"type": "function", "function": call} for call in calls]


# Reader by the field that tells the format
FORMATS: dict[str, Callable[[dict[str, Any], str], Messages]] = {
    "prompt": _prompt_completion,
    "conversations": _conversations,
    "instruction": _alpaca,
}
