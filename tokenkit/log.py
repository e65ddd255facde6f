"""One logger for the package; rank 0 speaks, the others only warn."""

from __future__ import annotations

import logging
import os
import warnings

from tokenkit.errors import ConfigError

logger = logging.getLogger("tokenkit")


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
    speaking = logging_ranks()
    handler = logging.StreamHandler()
    prefix = "" if rank in speaking and len(speaking) == 1 else f"[rank {rank}] "
    handler.setFormatter(logging.Formatter(f"{prefix}%(asctime)s %(message)s", "%H:%M:%S"))
    logger.handlers[:] = [handler]
    logger.setLevel(logging.INFO if rank in speaking else logging.WARNING)
    logger.propagate = False
    # Said by torchdata on every start, about its own code.
    warnings.filterwarnings("ignore", message="'set_vital' is deprecated")
    # Said of outputs that nobody writes into.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
