"""Fast Vocabulary Transfer: a new token's embedding is the mean of its old tokens' embeddings.

After Gee et al., "Fast Vocabulary Transfer for Language Model Compression" (EMNLP 2022, industry
track). Special tokens are copied from those with the same role, tokens that both vocabularies
have are copied, others are averaged over the pieces the source tokenizer cuts them into, and what
it cannot cut at all (part of a character, say) is drawn from the source's distribution.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tokenkit.errors import ModelError
from tokenkit.tokenizers import ByteifiedTokenizer
from tokenkit.tokenizers.families import (
    ASSISTANT_NAME,
    BOS,
    END_HEADER,
    EOT,
    PAD,
    START_HEADER,
    SYSTEM_NAME,
    USER_NAME,
)
from tokenkit.transfer.registry import INITIALIZERS

# Where two markers are one token (Qwen3: BOS and PAD), the later one decides.
COPIED_MARKERS = (
    ASSISTANT_NAME,
    USER_NAME,
    SYSTEM_NAME,
    EOT,
    END_HEADER,
    START_HEADER,
    PAD,
    BOS,
)
CHUNK_ROWS = 8192


@dataclass
class Recipe:
    """How each row of the new vocabulary is made; ids of the target are all listed once.

    Attributes:
        copied: target ids ``[C]`` and their source ids ``[C]``.
        averaged: target ids ``[A]``.
        pieces: source ids ``[P]`` of all averaged tokens, joined.
        piece_counts: pieces per averaged token ``[A]``, at least 1.
        drawn: target ids ``[F]``.
        report: how many tokens are ``special``, ``exact``, ``averaged`` and ``fallback``.
    """

    copied: tuple[Tensor, Tensor]
    averaged: Tensor
    pieces: Tensor
    piece_counts: Tensor
    drawn: Tensor
    report: dict[str, int]


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
    rows = {len(matrix) for matrix in matrices}
    if len(rows) != 1:
        raise ModelError(f"matrices of one vocabulary have different numbers of rows: {rows}")
    recipe = plan(source_tok, target_tok, rows.pop())
    generator = torch.Generator().manual_seed(seed)
    made = [_apply(recipe, matrix, len(target_tok), generator) for matrix in matrices]
    return made, recipe.report


def plan(source_tok: ByteifiedTokenizer, target_tok: ByteifiedTokenizer, rows: int) -> Recipe:
    """Decide for every target token where its row comes from; source ids are below ``rows``."""
    exact = [source_tok.ids.get(token, -1) if token else -1 for token in target_tok.tokens]
    source_of = np.array(exact, np.int64)
    source_of[source_of >= rows] = -1
    special = special_pairs(source_tok, target_tok, rows)
    for target, source in special.items():
        source_of[target] = source
    # A token that the source has, but without a row, is not cut further.
    missing = [i for i in np.flatnonzero(source_of < 0) if exact[i] < 0]
    cut = source_tok.tokenize_bytes_batch([target_tok.tokens[i] for i in missing])
    cut = [[piece for piece in pieces if piece < rows] for pieces in cut]
    averaged = [i for i, pieces in zip(missing, cut, strict=True) if pieces]
    pieces = [pieces for pieces in cut if pieces]
    copied = np.flatnonzero(source_of >= 0)
    drawn = np.setdiff1d(np.flatnonzero(source_of < 0), averaged)
    report = {
        "special": len(special),
        "exact": len(copied) - len(special),
        "averaged": len(averaged),
        "fallback": len(drawn),
    }
    return Recipe(
        (torch.from_numpy(copied), torch.from_numpy(source_of[copied])),
        torch.tensor(averaged, dtype=torch.long),
        torch.tensor([piece for found in pieces for piece in found], dtype=torch.long),
        torch.tensor([len(found) for found in pieces], dtype=torch.long),
        torch.from_numpy(drawn),
        report,
    )


def special_pairs(
    source_tok: ByteifiedTokenizer, target_tok: ByteifiedTokenizer, rows: int
) -> dict[int, int]:
    """Target id -> source id (below ``rows``) of tokens that have the same role."""
    by_token = {}
    for marker in COPIED_MARKERS:
        theirs, ours = (t.family.replacements[marker] or ("",) for t in (source_tok, target_tok))
        source = source_tok.ids.get(theirs[0], rows)
        if source < rows and ours[0]:
            by_token[ours[0]] = source
    # Two ids may spell the same token ("Ċ" as a piece and as a byte-fallback piece).
    return {i: by_token[t] for i, t in enumerate(target_tok.tokens) if t in by_token}


def _apply(recipe: Recipe, matrix: Tensor, rows: int, generator: torch.Generator) -> Tensor:
    """One new matrix ``[rows, D]``. Only chunks of rows are ever held in fp32."""
    new = matrix.new_empty(rows, matrix.shape[1])
    device = matrix.device
    copied, source = (ids.to(device) for ids in recipe.copied)
    for chunk, from_chunk in zip(copied.split(CHUNK_ROWS), source.split(CHUNK_ROWS), strict=True):
        new[chunk] = matrix[from_chunk]
    _average(recipe, matrix, new)
    if len(recipe.drawn):
        mean, std = moments(matrix)
        for ids in recipe.drawn.split(CHUNK_ROWS):
            noise = torch.randn(len(ids), matrix.shape[1], generator=generator)
            new[ids.to(device)] = (mean + std * noise.to(device)).to(new.dtype)
    return new


def _average(recipe: Recipe, matrix: Tensor, new: Tensor) -> None:
    """Write the means of the pieces' rows into ``new``."""
    first = 0
    counts_by_chunk = recipe.piece_counts.split(CHUNK_ROWS)
    for ids, counts in zip(recipe.averaged.split(CHUNK_ROWS), counts_by_chunk, strict=True):
        pieces = recipe.pieces[first : first + int(counts.sum())].to(matrix.device)
        first += len(pieces)
        token = torch.repeat_interleave(torch.arange(len(ids)), counts).to(matrix.device)
        total = torch.zeros(len(ids), matrix.shape[1], device=matrix.device)
        total.index_add_(0, token, matrix[pieces].float())
        mean = total / counts.to(matrix.device).unsqueeze(1)
        new[ids.to(matrix.device)] = mean.to(new.dtype)


def moments(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (of the population) of each column, fp32 ``[D]``.

    Combined chunk by chunk (Chan et al., 1979), so no fp32 copy of the matrix is made and no
    digits cancel.
    """
    count = 0
    mean = torch.zeros(matrix.shape[1], device=matrix.device)
    squares = torch.zeros_like(mean)
    for chunk in matrix.split(CHUNK_ROWS):
        chunk = chunk.float()
        n = len(chunk)
        shift = chunk.mean(0) - mean
        squares += (chunk - chunk.mean(0)).square().sum(0) + shift.square() * (
            count * n / (count + n)
        )
        mean += shift * (n / (count + n))
        count += n
    return mean, (squares / max(count, 1)).sqrt()
