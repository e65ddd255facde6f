"""An initialiser of your own: where the rows of a new vocabulary come from.

    python train.py --job.config_file train_configs/debug.toml \
        --job.custom_import examples/my_initialiser.py --student.embedding_init by_bytes

As FVT, but a long piece of a token counts more than a short one: " transfer" cut into " trans" and
"fer" starts nearer to " trans".
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tokenkit.tokenizers import ByteifiedTokenizer
from tokenkit.transfer import INITIALIZERS
from tokenkit.transfer.new_rows import Combination
from tokenkit.transfer.plan import make_plan


@INITIALIZERS.register("by_bytes")
def by_bytes(
    source_tok: ByteifiedTokenizer,
    target_tok: ByteifiedTokenizer,
    matrices: Sequence[Tensor],
    seed: int = 0,
) -> tuple[list[Tensor], dict[str, int]]:
    """Make the matrices of a new vocabulary.

    Args:
        matrices: ``[V_s, D]`` each (input and output embeddings, say).
        seed: of the rows that are drawn.

    Returns:
        ``[V_t, D]`` each, and the number of tokens by origin.
    """
    # Special tokens by role and shared tokens are copied; what stays in ``composed`` is ours.
    plan = make_plan(source_tok, target_tok, matrices)
    pieces = plan.composed
    # A byteified token has one character for each byte.
    length = torch.tensor([len(source_tok.tokens[piece]) for piece in pieces.sources.tolist()])
    token = torch.repeat_interleave(torch.arange(len(pieces)), pieces.counts)
    total = torch.zeros(len(pieces)).index_add(0, token, length.float())
    weights = length / total[token]
    plan = plan.composing(Combination(pieces.targets, pieces.counts, pieces.sources, weights))
    return plan.carry_out(matrices, seed), plan.report
