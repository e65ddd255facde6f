"""Rows for another vocabulary, on a user's own matrices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from tokenkit.api.alignment import as_tokenizer
from tokenkit.errors import ModelError
from tokenkit.models.checks import check_token_rows
from tokenkit.tokenizers import ByteifiedTokenizer
from tokenkit.transfer import INITIALIZERS


def transfer_embeddings(
    matrix: Tensor | Sequence[Tensor],
    source_tok: str | ByteifiedTokenizer,
    target_tok: str | ByteifiedTokenizer,
    method: str = "fvt",
    *,
    seed: int = 1234,
    **options: Any,
) -> Any:
    """Embeddings for the tokens of another tokenizer, without training.

    Special tokens are copied by role and shared tokens as they are; the method makes the others.

    Args:
        matrix: ``[V_s, D]``, any floating dtype, or several of them (an untied model's input and
            output matrix), which are moved alike.
        source_tok: the tokenizer of these rows, a spec or a loaded one.
        target_tok: the tokenizer to move to. Load it with ``like=source_tok`` to keep the model's
            special tokens and chat template.
        method: ``fvt``, ``focus``, ``omp``, ``mean``, ``random``, or one that a user registered.
        seed: of the rows that are drawn.
        options: keyword arguments of the method (``k``, ``candidates`` and ``donor`` of ``omp``).

    Returns:
        ``[V_t, D]`` in the matrix's dtype and on its device; a list for several.

    Raises:
        ModelError: if a matrix is no floating ``[V_s, D]``, has no row for a token of the source,
            or the matrices differ in their number of rows.
        ConfigError: if there is no such method.
        TokenizerError: if a tokenizer cannot be loaded.
    """
    source, target = as_tokenizer(source_tok, "source_tok"), as_tokenizer(target_tok, "target_tok")
    matrices: list[Tensor] = [matrix] if isinstance(matrix, Tensor) else list(matrix)
    for one in matrices:
        if not (isinstance(one, Tensor) and one.dim() == 2 and one.is_floating_point()):
            said = f"{one.dtype} {list(one.shape)}" if isinstance(one, Tensor) else type(one)
            raise ModelError(f"matrix is {said}: rows of a vocabulary are floating [V, D]")
        check_token_rows(source, len(one), "matrix")
    made, _ = INITIALIZERS.get(method)(
        source, target, [one.detach() for one in matrices], seed=seed, **options
    )
    return made[0] if isinstance(matrix, Tensor) else made
