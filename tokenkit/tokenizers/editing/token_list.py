"""Files that list tokens."""

from __future__ import annotations

import json
from pathlib import Path

from tokenkit.errors import DataError


def read_token_list(path: Path) -> list[str]:
    """Tokens of a file, each once: a ``.json`` file with a list, or one token a line.

    Lines keep their spaces; empty ones are skipped.

    Raises:
        DataError: if the file cannot be read, is no list of strings, or has none.
    """
    try:
        text = path.read_text(encoding="utf-8")
        tokens = json.loads(text) if path.suffix == ".json" else text.split("\n")
    except (OSError, ValueError) as error:
        raise DataError(f"list of tokens '{path}' cannot be read: {error}") from error
    if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
        raise DataError(f"'{path}' is not a JSON list of strings")
    tokens = list(dict.fromkeys(filter(None, tokens)))
    if not tokens:
        raise DataError(f"'{path}' lists no tokens")
    return tokens
