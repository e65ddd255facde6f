"""Texts to validate on."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, islice, zip_longest
from typing import TYPE_CHECKING

from tokenkit.data.pieces import pieces
from tokenkit.data.read_row import RowFormat, plain_text
from tokenkit.data.sources import iterate_source
from tokenkit.errors import DataError

if TYPE_CHECKING:
    from tokenkit.config import Config


LONGEST_DOCUMENT = 1 << 16  # characters


def _texts(config: Config, name: str) -> Iterator[str]:
    data, row_format = config.data, RowFormat.of(config)
    rows = iterate_source(name, data.split, data.text_field, data.streaming)
    texts = (plain_text(row, where, row_format) for row, where in rows)
    return filter(None, (piece for text in texts for piece in pieces(text, LONGEST_DOCUMENT)))


def load_validation_texts(config: Config) -> list[str]:
    """The first non-empty texts of ``data.validation``, at most ``eval.max_documents``.

    Of several sources, one text of each in turn. Texts have no markers; of a conversation, they
    are the contents of its turns, joined by newlines. A text of more than
    :data:`LONGEST_DOCUMENT` characters counts as several, cut behind newlines.

    Raises:
        DataError: if a source is missing, unreadable or empty, a row read is bad, or no row has
            text.
    """
    names = config.data.validation
    turns = zip_longest(*(_texts(config, name) for name in names))
    texts = list(islice(filter(None, chain.from_iterable(turns)), config.eval.max_documents))
    if names and not texts:
        raise DataError(f"data.validation = {', '.join(names)}: no row has any text")
    return texts
