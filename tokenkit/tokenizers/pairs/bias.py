"""Biases of token pairs, which say where two tokenizations may be cut without bias."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import sparse

from tokenkit.errors import TokenizerError

FILES = ("bias1_matrix.npz", "bias2_matrix.npz")


@dataclass(frozen=True)
class PairBias:
    """Sparse biases ``[V_teacher, V_student]`` of both directions; a missing entry is 0."""

    bias1: sparse.csr_matrix
    bias2: sparse.csr_matrix

    def is_unbiased(
        self, teacher_ids: np.ndarray, student_ids: np.ndarray, threshold: float
    ) -> np.ndarray:
        """Whether both biases of each pair are at most ``threshold``.

        Args:
            teacher_ids, student_ids: integers ``[N]``; ids beyond the matrices (tokens added
                later) count as unbiased.

        Returns:
            bool ``[N]``.
        """
        rows, columns = self.bias1.shape
        known = np.flatnonzero((teacher_ids < rows) & (student_ids < columns))
        unbiased = np.ones(len(teacher_ids), bool)
        if len(known):
            pairs = teacher_ids[known], student_ids[known]
            for bias in (self.bias1, self.bias2):
                unbiased[known] &= np.asarray(bias[pairs]).reshape(-1) <= threshold
        return unbiased


def load_pair_bias(path: str | Path) -> PairBias | None:
    """Read the pair statistics of two tokenizers.

    Args:
        path: folder with ``bias1_matrix.npz`` and ``bias2_matrix.npz`` (scipy sparse matrices
            ``[V_teacher, V_student]``), or one of these files; "" gives None.

    Raises:
        TokenizerError: if a file is missing or damaged, or the shapes differ.
    """
    if not str(path):
        return None
    folder = Path(path)
    if folder.name in FILES:
        folder = folder.parent
    matrices = []
    for name in FILES:
        try:
            matrices.append(sparse.load_npz(folder / name).tocsr())
        except FileNotFoundError:
            raise TokenizerError(
                f"pair statistics: '{folder / name}' does not exist (expected a folder with "
                f"{' and '.join(FILES)})"
            ) from None
        except Exception as error:  # zip, pickle and key errors of a damaged file
            raise TokenizerError(
                f"pair statistics: '{folder / name}' is not a sparse matrix: {error}"
            ) from error
    if matrices[0].shape != matrices[1].shape:
        raise TokenizerError(
            f"pair statistics in '{folder}' have different shapes: "
            f"{matrices[0].shape} and {matrices[1].shape}"
        )
    return PairBias(*matrices)
