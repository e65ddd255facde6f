"""Precomputed biases of pairs (teacher token, student token), for unbiased chunks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from scipy import sparse

from tokenkit.errors import DataError

FILES = ("bias1_matrix.npz", "bias2_matrix.npz")


def load_pair_bias(folder: str | Path) -> tuple[Any, Any]:
    """Both bias matrices, sparse ``[V_t, V_s]``; a pair that is not stored has bias 0.

    Raises:
        DataError: if the folder lacks one or it cannot be read.
    """
    matrices = []
    for name in FILES:
        path = Path(folder) / name
        try:
            matrices.append(sparse.csr_array(sparse.load_npz(path)))
        except (OSError, ValueError, KeyError) as error:
            raise DataError(
                f"alm.pair_bias = '{folder}': '{path}' is not a readable sparse matrix ({error})"
            ) from error
    return matrices[0], matrices[1]
