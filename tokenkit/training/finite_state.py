"""What is saved is finite: a checkpoint of NaN would push good ones out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor

from tokenkit.errors import TrainingError
from tokenkit.ops.finite import first_not_finite

if TYPE_CHECKING:
    from tokenkit.training.checkpoint.agreement import Agreement


def refuse_not_finite(tensors: Mapping[str, Tensor], step: int, ranks: Agreement) -> None:
    """Look through this rank's parts of the state after ``step`` steps.

    Raises:
        TrainingError: the same on all ranks, naming the first tensor that is not finite on one.
    """
    found = ranks.gather(first_not_finite(tensors))
    name = next((name for name in found if name is not None), None)
    if name is not None:
        raise TrainingError(
            f"step {step}: '{name}' is not finite any more, so no checkpoint is written and "
            "earlier ones stay; lower optimizer.lr (or weight_decay), or look at loss.weights"
        )
