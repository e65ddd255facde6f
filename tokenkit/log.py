"""One logger for the package; rank 0 speaks, the others only warn."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from contextlib import nullcontext

from tokenkit.errors import ConfigError

logger = logging.getLogger("tokenkit")
_others_speak = False  # whether what all ranks would say is left to other ranks
# What libraries say that a user can do nothing about: the beginnings of their messages.
NOISE = (
    # Said by torchdata on every start, about its own code.
    "'set_vital' is deprecated",
    # Said of outputs that nobody writes into.
    "FSDP2-wrapped module .* returned a view tensor",
    # Their new names are not in all versions of torch that are supported.
    r"`torch\.distributed\.(all_gather_into|reduce_scatter)_tensor` is deprecated",
    # fp32 is computed as such on purpose, see training.environment.
    "TensorFloat32 tensor cores for float32 matrix multiplication available but not enabled",
)


class LineHandler(logging.StreamHandler):
    """Writes to stderr; progress bars make room, so that each record has lines of its own."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm = sys.modules.get("tqdm")  # imported where there is a bar
        with nullcontext() if tqdm is None else tqdm.tqdm.external_write_mode(sys.stderr):
            super().emit(record)


def logging_ranks() -> set[int]:
    """The ranks that ``LOG_RANK`` (default "0") lists.

    Raises:
        ConfigError: if it lists anything else.
    """
    text = os.environ.get("LOG_RANK", "0")
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not all(part.isdecimal() and len(part) < 10 for part in parts):
        raise ConfigError(f"LOG_RANK = '{text}' in the environment: expected ranks, such as 0,1")
    return {int(part) for part in parts}


def init_logger(rank: int = 0) -> None:
    """Log to stderr. ``LOG_RANK`` lists the ranks that log at INFO."""
    global _others_speak
    speaking = logging_ranks()
    _others_speak = rank not in speaking
    handler = LineHandler()
    prefix = "" if rank in speaking and len(speaking) == 1 else f"[rank {rank}] "
    handler.setFormatter(logging.Formatter(f"{prefix}%(asctime)s %(message)s", "%H:%M:%S"))
    logger.handlers[:] = [handler]
    logger.setLevel(logging.INFO if rank in speaking else logging.WARNING)
    logger.propagate = False
    for message in NOISE:
        warnings.filterwarnings("ignore", message=message)


def warn_once(line: str) -> None:
    """A warning that all ranks have the same reason for: those that only warn do not repeat it."""
    if not _others_speak:
        logger.warning(line)
