"""Training-free transfer: embeddings of a new vocabulary from those of the old one.

One file for each initialiser. They are imported when one is asked for by name.
"""

from __future__ import annotations

from collections.abc import Iterator

from tokenkit.config import Config, add_check, to_toml
from tokenkit.registry import did_you_mean
from tokenkit.transfer.registry import INITIALIZERS

__all__ = ["INITIALIZERS"]


def problems(config: Config) -> Iterator[str]:
    """What cannot work of ``student.embedding_init``."""
    name, known = config.student.embedding_init, INITIALIZERS.names()
    if name not in known:
        yield (
            f"student.embedding_init = {to_toml(name)}: no such initialiser"
            f"{did_you_mean(name, known)} (available: {', '.join(known)})"
        )


add_check(problems)
