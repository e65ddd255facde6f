"""What the launcher says of this process, known before any process group starts."""

from __future__ import annotations

import os


def rank() -> int:
    """Global rank of this process (0 without a launcher)."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """Ranks that torchrun started (1 without torchrun)."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def restarted() -> bool:
    """Whether torchrun started this process anew, after a failure."""
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"
