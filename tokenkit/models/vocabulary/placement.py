"""Where a vocabulary's rows are, and who predicts them: all here, if no parallelism says else."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor


class Rows(NamedTuple):
    """This process's rows of a matrix; ``group`` is None where it has all of them."""

    matrix: Tensor  # [rows, D]
    first: int
    group: Any  # the processes that have the others

    def valid(self, total: int) -> int:
        """How many of these rows are among the first ``total`` of the whole matrix."""
        return max(0, min(total - self.first, len(self.matrix)))

    def of(self, per_row: Tensor) -> Tensor:
        """This process's part of a tensor ``[V]``."""
        return per_row[self.first : self.first + len(self.matrix)]


class Placement:
    """All rows are here."""

    def local(self, matrix: Tensor) -> Rows:
        """The rows that are here; differentiable."""
        return Rows(matrix, 0, None)

    def whole(self, matrix: Tensor) -> Tensor:
        """All rows; differentiable, if every process computes the same from it."""
        return matrix

    def join_lookups(self, found: Tensor) -> Tensor:
        """Embeddings ``[..., D]``, of which each process has found those of its rows (others 0)."""
        return found

    def join_columns(self, logits: Tensor, rows: int, valid: int) -> Tensor:
        """``[n, valid]`` of each process's columns ``[n, ...]``; no gradient.

        Args:
            rows: of the whole matrix.
        """
        return logits


class Sharing:
    """This process predicts all tokens' embeddings itself."""

    def mine(self, per_token: Tensor) -> Tensor:
        """The part of a tensor ``[V, ...]`` that is to be predicted here."""
        return per_token

    def gather(self, mine: Tensor, count: int) -> Tensor:
        """Everybody's parts as ``[count, ...]``, without gradient."""
        return mine.detach()

    def reduce(self, whole: Tensor) -> Tensor:
        """This process's part of the sum of everybody's ``[V, ...]``."""
        return whole
