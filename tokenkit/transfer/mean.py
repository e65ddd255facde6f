"""Every token that the source does not have starts at the mean of all the source's rows."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from tokenkit.tokenizers import ByteifiedTokenizer
from tokenkit.transfer.plan import make_plan
from tokenkit.transfer.registry import INITIALIZERS


@INITIALIZERS.register("mean")
def mean(
    source_tok: ByteifiedTokenizer,
    target_tok: ByteifiedTokenizer,
    matrices: Sequence[Tensor],
    seed: int = 0,
) -> tuple[list[Tensor], dict[str, int]]:
    """Make the matrices of a new vocabulary.

    Special and shared tokens are copied as by :func:`tokenkit.transfer.fvt.fvt`, whose arguments,
    returns and errors are the same. All others count as ``fallback``: nothing is known of them.
    Nothing is drawn, so ``seed`` has no effect.
    """
    plan = make_plan(source_tok, target_tok, matrices).without_composition()
    return plan.carry_out(matrices, seed, spread=0.0), plan.report
