"""Ids as arrays."""

from __future__ import annotations

from struct import pack_into

import numpy as np


def as_array(ids: list[int]) -> np.ndarray:
    """Ids as int32 ``[T]``; takes half as long as ``np.array``."""
    array = np.empty(len(ids), np.int32)
    pack_into(f"{len(ids)}i", array.data, 0, *ids)
    return array
