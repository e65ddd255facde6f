"""The models of a comparison."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenkit.errors import ConfigError
from tokenkit.tokenizers import ByteifiedTokenizer


@dataclass
class Entry:
    """One model of a comparison.

    Attributes:
        name: what the report calls it: short, and no other's.
        model: as the user named it.
        folder: where it lies: the model itself, or what a run was exported as.
        tok: its tokenizer.
        run: its run's output directory, whose training curves are shown.
        start: a model folder with the same tokens that training began with; None if not known.
        trusted: whether Python code of the folder may run.
    """

    name: str
    model: str
    folder: str
    tok: ByteifiedTokenizer
    run: Path | None = None
    start: str | None = None
    trusted: bool = False


def short_names(models: Sequence[str], kind: str = "model") -> list[str]:
    """The last part of each path or hub id; where that is another's, too, as many as tell them.

    Args:
        kind: of what is named, for messages.

    Raises:
        ConfigError: if one is named twice.
    """
    twice = [name for name, count in Counter(map(_key, models)).items() if count > 1]
    if twice:
        raise ConfigError(f"{kind} '{twice[0]}' is named twice; a comparison needs different ones")
    parts = [[part for part in _key(model).split("/") if part] or [model] for model in models]
    names = []
    for own in parts:
        length = 1
        while length < len(own) and sum(other[-length:] == own[-length:] for other in parts) > 1:
            length += 1
        names.append("/".join(own[-length:]))
    return names


def _key(model: str) -> str:
    """A local folder by its whole path, however it was spelt."""
    path = Path(model).expanduser()
    return str(path.resolve()) if path.exists() else model
