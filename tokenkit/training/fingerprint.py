"""Fingerprints of files that are too large to read whole: sizes, and a hash of what they hold."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

WHOLE_BYTES = 2**30  # files that are together at most this large are read whole
BLOCK_BYTES, BLOCKS = 2**20, 64  # of each file else: evenly spaced, head and tail among them


def fingerprint(paths: Sequence[Path]) -> str:
    """32 hex digits that depend on the files' order, sizes and contents, not on their names.

    Of more than :data:`WHOLE_BYTES`, a block in many is read; new weights differ everywhere.

    Raises:
        OSError: if a file cannot be read.
    """
    sizes = [path.stat().st_size for path in paths]
    whole = sum(sizes) <= WHOLE_BYTES
    digest = hashlib.blake2b(digest_size=16)
    for path, size in zip(paths, sizes, strict=True):
        digest.update(size.to_bytes(8, "little"))
        with path.open("rb") as file:
            for begin in _blocks(size, whole):
                file.seek(begin)
                digest.update(file.read(BLOCK_BYTES))
    return digest.hexdigest()


def _blocks(size: int, whole: bool) -> list[int]:
    """Where the blocks to read begin."""
    if whole or size <= BLOCK_BYTES * BLOCKS:
        return list(range(0, size, BLOCK_BYTES))
    last = size - BLOCK_BYTES
    return [last * number // (BLOCKS - 1) for number in range(BLOCKS)]
