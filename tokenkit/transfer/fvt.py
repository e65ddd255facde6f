"""Fast Vocabulary Transfer (FVT, arXiv 2402.09977): a new token starts as the mean of its pieces.

Special tokens are copied by role, tokens that both vocabularies have are copied as they are, the
others become the mean of the source tokens that spell them; what cannot be spelled is drawn from
the distribution of the source's rows.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tokenkit.tokenizers import ByteifiedTokenizer
from tokenkit.tokenizers.families import (
    ASSISTANT,
    BOS,
    END_HEADER,
    EOT,
    PAD,
    START_HEADER,
    SYSTEM,
    USER,
)
from tokenkit.transfer.registry import INITIALIZERS

# In order of rising importance: where one token plays several roles, the last one wins.
ROLES = (ASSISTANT, USER, SYSTEM, EOT, END_HEADER, START_HEADER, PAD, BOS)
CHUNK_ROWS = 16384


def special_pairs(source: ByteifiedTokenizer, target: ByteifiedTokenizer) -> dict[int, int]:
    """Target id → source id of the tokens that play the same role."""
    pairs = {}
    for role in ROLES:
        theirs, ours = source.marker_ids(role), target.marker_ids(role)
        if len(theirs) and len(ours):
            pairs[int(ours[0])] = int(theirs[0])
    return pairs


def decompose(
    source: ByteifiedTokenizer, target: ByteifiedTokenizer, rows: int
) -> tuple[list[list[int]], dict[str, int]]:
    """Source ids (below ``rows``) that make up each target token; [] where nothing does.

    Returns:
        One list per target id, and a report: tokens copied by role ("special"), copied as they
        are ("exact"), composed of several pieces ("averaged") and without any ("fallback").
    """
    special = special_pairs(source, target)
    report = dict.fromkeys(("special", "exact", "averaged", "fallback"), 0)
    parts: list[list[int]] = []
    for number, token in enumerate(target.tokens):
        if number in special:
            found, kind = [special[number]], "special"
        elif token in source.ids:
            found, kind = [source.ids[token]], "exact"
        else:
            found, kind = source.tokenize_bytes(token), "averaged"
        found = [piece for piece in found if piece < rows]
        report[kind if found else "fallback"] += 1
        parts.append(found)
    return parts, report


def compose(matrix: Tensor, parts: list[list[int]], seed: int) -> Tensor:
    """Rows ``[len(parts), D]`` as means of rows of ``matrix`` ``[V, D]``, in its dtype.

    Rows without parts are drawn from a normal distribution with the mean and standard deviation
    of the matrix's columns. Works in blocks: no fp32 copy of a matrix is made.
    """
    lengths = torch.tensor([len(p) for p in parts])
    flat = torch.tensor([piece for p in parts for piece in p], dtype=torch.long)
    offsets = torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)])
    result = torch.empty(len(parts), matrix.shape[1], dtype=matrix.dtype)
    for begin in range(0, len(parts), CHUNK_ROWS):
        end = min(begin + CHUNK_ROWS, len(parts))
        pieces = flat[offsets[begin] : offsets[end]]
        used, pieces = torch.unique(pieces, return_inverse=True)
        result[begin:end] = torch.nn.functional.embedding_bag(
            pieces, matrix[used].float(), offsets[begin:end] - offsets[begin], mode="mean"
        ) if len(used) else 0.0  # fmt: skip
    # A copied row must be the very row, not its round trip through a mean.
    single = (lengths == 1).nonzero().squeeze(1)
    result[single] = matrix[flat[offsets[single]]]
    missing = (lengths == 0).nonzero().squeeze(1)
    if len(missing):
        mean, std = column_statistics(matrix)
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(len(missing), matrix.shape[1], generator=generator)
        result[missing] = (mean + std * noise).to(matrix.dtype)
    return result


def column_statistics(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and (population) standard deviation of each column, fp32 ``[D]``."""
    total = torch.zeros(matrix.shape[1], dtype=torch.float64)
    squares = torch.zeros_like(total)
    for block in matrix.split(CHUNK_ROWS):
        block = block.double()
        total += block.sum(0)
        squares += block.square().sum(0)
    mean = total / len(matrix)
    variance = (squares / len(matrix) - mean.square()).clamp(min=0.0)
    return mean.float(), variance.sqrt().float()


@INITIALIZERS.register("fvt")
def fvt(
    source: ByteifiedTokenizer,
    target: ByteifiedTokenizer,
    matrices: list[Tensor],
    seed: int = 0,
) -> tuple[list[Tensor], dict[str, int]]:
    """Matrices of a new vocabulary.

    Args:
        source, target: old and new tokenizer.
        matrices: ``[V_s, D]`` each (input, and output if untied); same number of rows.
        seed: for rows that must be drawn.

    Returns:
        ``[len(target), D]`` each, in the sources' dtype, and the report of :func:`decompose`.
    """
    parts, report = decompose(source, target, len(matrices[0]))
    return [compose(matrix, parts, seed + k) for k, matrix in enumerate(matrices)], report
