"""How a key of a section is declared: default, one line of documentation, range of values."""

from __future__ import annotations

from dataclasses import field
from typing import Any


def key(
    default: Any,
    doc: str,
    *,
    choices: tuple[str, ...] = (),
    joined: tuple[str, ...] = (),
    minimum: float | None = None,
    above: float | None = None,
    maximum: float | None = None,
    below: float | None = None,
    path: bool = False,
    compare: bool = True,
) -> Any:
    """A dataclass field with one line of documentation and the range of its values.

    ``joined`` are names, of which a value joins some by "+".

    ``path`` says that a value names a file or folder, a tokenizer spec or a dataset;
    a run keeps it as a whole path.

    ``minimum`` and ``maximum`` are allowed values, ``above`` and ``below`` are not. For a list,
    all of these apply to each element.
    """
    if choices:
        doc = f"{doc}: {' | '.join(choice or '(empty)' for choice in choices)}"
    if joined:
        doc = f"{doc}, joined by +: {' | '.join(joined)}"
    limits = {"minimum": minimum, "above": above, "maximum": maximum, "below": below}
    metadata = {"doc": doc, "choices": choices, "joined": joined, "path": path, **limits}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata, compare=compare)
    return field(default=default, metadata=metadata, compare=compare)
