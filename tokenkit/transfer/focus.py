"""FOCUS: a new token is a mixture of the shared tokens that an auxiliary space puts near it.

After Dobler & de Melo, "FOCUS: Effective Embedding Initialization for Monolingual Specialization
of Multilingual Models" (EMNLP 2023, arXiv 2305.14481): shared tokens are copied; the weights of
all others' mixtures are the sparsemax (Martins & Astudillo, 2016) of their cosine similarities to
the shared tokens.

The paper's auxiliary space is fastText trained on text of the target language. Here it is one
that needs neither text nor training and knows all tokens by their surface form: a shared token
lies at its row of the source's input matrix, a new one at the mean of the rows of the pieces the
source tokenizer cuts it into (FVT's composition). Special tokens, whose rows say nothing of
their spelling, are not mixed in. What cannot be cut has no place in that space and is drawn.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tokenkit.tokenizers import ByteifiedTokenizer
from tokenkit.transfer.new_rows import CHUNK_ROWS, Combination, unit_rows
from tokenkit.transfer.pace import paced
from tokenkit.transfer.plan import make_plan
from tokenkit.transfer.registry import INITIALIZERS

SIMILARITIES = 1 << 26  # held at a time, fp32


@INITIALIZERS.register("focus")
def focus(
    source_tok: ByteifiedTokenizer,
    target_tok: ByteifiedTokenizer,
    matrices: Sequence[Tensor],
    seed: int = 0,
) -> tuple[list[Tensor], dict[str, int]]:
    """Make the matrices of a new vocabulary.

    The weights come from the first matrix (the input embeddings) and are used for all. Arguments,
    returns and errors are those of :func:`tokenkit.transfer.fvt.fvt`. Without any shared token,
    rows are those of FVT.
    """
    plan = make_plan(source_tok, target_tok, matrices)
    basis = plan.shared[1].unique()
    if len(basis):
        rows = max(1, SIMILARITIES // len(basis))
        work = f"focus: {len(plan.composed):,} new tokens beside {len(basis):,} shared ones"
        mixed = [
            _mix(part, part.of(matrices[0]), matrices[0], basis)
            for part in paced(plan.composed.chunks(rows), work)
        ]
        plan = plan.composing(Combination.join(mixed))
    return plan.carry_out(matrices, seed), plan.report


def _mix(part: Combination, places: Tensor, matrix: Tensor, basis: Tensor) -> Combination:
    """New tokens at ``places`` ``[A, D]`` as mixtures of the rows ``basis`` ``[S]``."""
    places = torch.nn.functional.normalize(places, dim=1)
    similarities = places.new_empty(len(places), len(basis))
    begin = 0
    for ids in basis.split(CHUNK_ROWS):
        torch.matmul(
            places, unit_rows(matrix, ids).T, out=similarities[:, begin : begin + len(ids)]
        )
        begin += len(ids)
    weights, columns = sparsemax(similarities)
    used = weights > 0
    return Combination(
        part.targets, used.sum(1).cpu(), basis[columns[used].cpu()], weights[used].cpu()
    )


def sparsemax(scores: Tensor, support: int = 512) -> tuple[Tensor, Tensor]:
    """The projection of every row of ``[B, N]`` onto the simplex (Martins & Astudillo, 2016).

    Args:
        support: how many of a row's highest scores are looked at first; more are where those do
            not settle it. The result does not depend on it.

    Returns:
        Weights ``[B, K]``, falling, and their columns ``[B, K]``; all other weights are 0.
    """
    k = min(support, scores.shape[1])
    while True:
        highest, columns = scores.topk(k, dim=1)
        sums = highest.double().cumsum(1)
        rank = torch.arange(1, k + 1, device=scores.device)
        count = (1 + rank * highest.double() > sums).sum(1, keepdim=True)
        if k == scores.shape[1] or bool((count < k).all()):
            break
        k = min(8 * k, scores.shape[1])
    threshold = (sums.gather(1, count - 1) - 1) / count
    return (highest - threshold).clamp(min=0).to(scores.dtype), columns
