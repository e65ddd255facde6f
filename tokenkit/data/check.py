"""A look at the rows before training, so that a bad one is not found after hours of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch.distributed as dist

from tokenkit.data.read_row import RowFormat
from tokenkit.data.reader import Passed, Reader
from tokenkit.data.sources import Source, open_source
from tokenkit.errors import DataError, TokenkitError
from tokenkit.log import logger
from tokenkit.tokenizers import Row

if TYPE_CHECKING:
    from tokenkit.config import Config

CHECK_SECONDS = 60.0


def check_data(config: Config, look: Callable[[Row], object]) -> None:
    """Let rank 0 look at the rows of ``data.train``, while the others wait for what it finds.

    What is streamed is not looked at: it would have to be read twice.

    Args:
        look: given each row; raises DataError if it cannot be used.

    Raises:
        DataError: on all ranks, at the first bad row, or if all rows of a source are empty.
    """
    found: list[TokenkitError | None] = [None]
    alone = not dist.is_initialized()
    if alone or dist.get_rank() == 0:
        data = config.data
        names = [n for n in data.train if not (data.streaming and n.startswith("hf:"))]
        try:
            sources = {name: open_source(name, data.split, data.text_field) for name in names}
            _look_at_rows(sources, Reader(RowFormat.of(config)), look)
        except TokenkitError as error:
            found = [error]
    if not alone:
        dist.broadcast_object_list(found, src=0)
    if found[0] is not None:
        raise found[0]


def _look_at_rows(
    sources: dict[str, Source], reader: Reader, look: Callable[[Row], object]
) -> None:
    """Read the rows once; after a minute the rest is left for when it is read, which is said."""
    end = time.monotonic() + CHECK_SECONDS
    for name, source in sources.items():
        empty = 0
        for index in range(len(source)):
            found = reader.at(source, index)
            if isinstance(found, Passed):
                empty += 1
            else:
                look(found)
            if time.monotonic() > end:
                logger.info(
                    f"data '{name}': {index + 1:,} of {len(source):,} rows checked in "
                    f"{CHECK_SECONDS:.0f} s; the others are when they are read (data.check)"
                )
                return
        if empty == len(source):
            raise DataError(f"{reader.last}: this row and all others of '{name}' are empty")
