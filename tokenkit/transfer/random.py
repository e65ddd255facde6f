"""The floor: nothing but special tokens is taken from the source, all other rows are drawn."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from tokenkit.tokenizers import ByteifiedTokenizer
from tokenkit.transfer.plan import make_plan
from tokenkit.transfer.registry import INITIALIZERS


@INITIALIZERS.register("random")
def random(
    source_tok: ByteifiedTokenizer,
    target_tok: ByteifiedTokenizer,
    matrices: Sequence[Tensor],
    seed: int = 0,
) -> tuple[list[Tensor], dict[str, int]]:
    """Make the matrices of a new vocabulary that knows nothing of the old one.

    Rows are drawn from a normal distribution with the mean and standard deviation of each of the
    source matrix's columns, even those of tokens that both vocabularies have; only special tokens
    are copied by role. What another initialiser is worth is its distance from this one, so a
    round trip to the same tokenizer does *not* give the same model. Arguments, returns and errors
    are those of :func:`tokenkit.transfer.fvt.fvt`.
    """
    plan = make_plan(source_tok, target_tok, matrices).without_sharing()
    return plan.carry_out(matrices, seed), plan.report
