"""Kinds of vocabularies by name; the config says which one a student gets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenkit.errors import ConfigError
from tokenkit.registry import Registry

if TYPE_CHECKING:
    from tokenkit.config import Config
    from tokenkit.models.vocabulary.table import Vocabulary

VOCABULARIES = Registry("vocabulary")


def vocabulary_kind(config: Config) -> type[Vocabulary] | None:
    """The registered kind that the config asks for; None for a plain table.

    Raises:
        ConfigError: if it asks for several.
    """
    wanted = [name for name in VOCABULARIES.names() if VOCABULARIES.get(name).wanted(config)]
    if len(wanted) > 1:
        raise ConfigError(f"the config asks for several kinds of vocabulary: {', '.join(wanted)}")
    return VOCABULARIES.get(wanted[0]) if wanted else None
