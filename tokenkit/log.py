"""One logger for the package; rank 0 speaks, the others only warn."""

from __future__ import annotations

import logging
import os
import warnings

logger = logging.getLogger("tokenkit")


def init_logger(rank: int = 0) -> None:
    """Log to stderr. ``LOG_RANK`` (default "0") lists the ranks that log at INFO."""
    speaking = {int(r) for r in os.environ.get("LOG_RANK", "0").split(",") if r.strip()}
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
