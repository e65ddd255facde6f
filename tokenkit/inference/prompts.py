"""What a user asks a model to go on from: a text, a chat, or a file of either."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenkit.errors import ConfigError, DataError
from tokenkit.inference.model import TextModel
from tokenkit.inference.sampling import is_unicode


@dataclass(frozen=True)
class Prompt:
    """A text, or the turns of a chat so far."""

    text: str = ""
    messages: tuple[dict[str, Any], ...] = ()

    def encode(self, model: TextModel) -> list[int]:
        """Ids that the model goes on from.

        Raises:
            DataError: if the model's template refuses the chat.
        """
        return model.encode_chat(self.messages) if self.messages else model.encode_prompt(self.text)

    def row(self) -> dict[str, Any]:
        """As it is written to JSONL."""
        return {"messages": list(self.messages)} if self.messages else {"prompt": self.text}


def as_chat(text: str, system: str | None = None) -> Prompt:
    """A chat of one turn of the user's, behind the system's if there is one."""
    begin = [{"role": "system", "content": system}] if system else []
    return Prompt(messages=(*begin, {"role": "user", "content": text}))


def check_text(text: str, option: str) -> str:
    """The text of an argument.

    Raises:
        ConfigError: if it is empty or is no valid UTF-8.
    """
    if not text:
        raise ConfigError(f"{option} is empty: give a text to go on from")
    if not is_unicode(text):
        raise ConfigError(f"{option} {ascii(text)} is not valid UTF-8")
    return text


def read_prompts(path: Path, chat: bool = False, system: str | None = None) -> list[Prompt]:
    """The prompts of a file: a row each of JSON Lines (``.jsonl``), else a line each.

    A row has a ``prompt`` (or ``text``), or ``messages``. Lines that are blank are no prompts.

    Args:
        chat: texts are turns of the user's.
        system: what the system says before them.

    Raises:
        DataError: naming the line that is bad, or the file that has no prompt.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise DataError(f"--prompts {path}: cannot be read ({error})") from error
    prompts = []
    for where, line in _lines(path, lines):
        value = _row(line, where) if path.suffix == ".jsonl" else line
        if isinstance(value, str):
            prompts.append(as_chat(value, system) if chat else Prompt(value))
        else:
            prompts.append(Prompt(messages=tuple(value)))
    if not prompts:
        raise DataError(f"--prompts {path}: no line has text")
    return prompts


def read_texts_of(path: Path) -> list[str]:
    """The texts of a file of prompts that has no chats.

    Raises:
        DataError: if it cannot be used, or holds a chat.
    """
    prompts = read_prompts(path)
    if any(prompt.messages for prompt in prompts):
        raise DataError(f"--prompts {path}: has 'messages', but only texts are read here")
    return [prompt.text for prompt in prompts]


def _lines(path: Path, lines: list[bytes]) -> Iterator[tuple[str, str]]:
    """Lines that are not blank, and where they stand."""
    for number, line in enumerate(lines, 1):
        where = f"{path}:{number}"
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8").removesuffix("\r")
        except UnicodeDecodeError as error:
            raise DataError(f"{where}: not valid UTF-8 (byte {error.start + 1} of it)") from error
        if text.strip():
            yield where, text


def _row(line: str, where: str) -> str | list[dict[str, Any]]:
    try:
        row = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        raise DataError(f"{where}: not a JSON object on one line ({error})") from error
    if not isinstance(row, dict):
        raise DataError(f"{where}: not a JSON object with 'prompt' or 'messages'")
    if "messages" in row:
        return _messages(row["messages"], where)
    value = row.get("prompt", row.get("text"))
    if not isinstance(value, str):
        raise DataError(f"{where}: the row has no text under 'prompt', and no 'messages'")
    if not value:
        raise DataError(f"{where}: the prompt is empty")
    if not is_unicode(value):
        raise DataError(f"{where}: the prompt {ascii(value)[:60]} is not valid UTF-8")
    return value


def _messages(value: Any, where: str) -> list[dict[str, Any]]:
    turns = value if isinstance(value, list) else []
    if not turns or not all(isinstance(turn, dict) and "role" in turn for turn in turns):
        raise DataError(f"{where}: 'messages' is not a list of turns with 'role' and 'content'")
    if not is_unicode(json.dumps(turns, ensure_ascii=False)):
        raise DataError(f"{where}: 'messages' are not valid UTF-8")
    if turns[-1]["role"] == "assistant":
        raise DataError(f"{where}: the last turn is the assistant's: nothing is left to answer")
    return turns
