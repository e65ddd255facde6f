"""Fast Vocabulary Transfer: a new token's embedding is the mean of its old tokens' embeddings.

After Gee et al., "Fast Vocabulary Transfer for Language Model Compression" (EMNLP 2022, industry
track). Special tokens are copied from those with the same role, tokens that both vocabularies
have are copied, others are averaged over the pieces the source tokenizer cuts them into, and what
it cannot cut at all (part of a character, say) is drawn from the source's distribution.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from tokenkit.tokenizers import ByteifiedTokenizer
from tokenkit.transfer.plan import make_plan
from tokenkit.transfer.registry import INITIALIZERS


@INITIALIZERS.register("fvt")
def fvt(
    source_tok: ByteifiedTokenizer,
    target_tok: ByteifiedTokenizer,
    matrices: Sequence[Tensor],
    seed: int = 0,
) -> tuple[list[Tensor], dict[str, int]]:
    """Make the matrices of a new vocabulary.

    Args:
        matrices: ``[V_s, D]`` each, any floating dtype (input and output embeddings, say).
        seed: of the rows that are drawn.

    Returns:
        ``[V_t, D]`` each, in their matrix's dtype and on its device, and the number of tokens
        by origin: special, exact, averaged, fallback.

    Raises:
        ModelError: if the matrices differ in their number of rows.
    """
    plan = make_plan(source_tok, target_tok, matrices)
    return plan.carry_out(matrices, seed), plan.report
