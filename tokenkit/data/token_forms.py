"""A vocabulary as a hypernetwork sees it: every token spelt with the source's tokens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from tokenkit.tokenizers import ByteifiedTokenizer, special_pairs, surface_forms

if TYPE_CHECKING:
    from tokenkit.config import Config


@dataclass(frozen=True)
class TokenForms:
    """V tokens, of which ``valid`` are real and the rest padding.

    Attributes:
        ids: ``[V, L]`` int64 source ids; from the source's number of rows on, bytes.
        lengths: ``[V]`` int64, tokens in each form; 1 for padding.
        copied: ``[V]`` bool, special tokens; they keep the embeddings of their form's only token.
        boundary: ``[V]`` bool, tokens that begin a new word.
        valid: number of real tokens.
        source_rows: rows of the source's matrices.
        cut: tokens whose form was too long.
    """

    ids: Tensor
    lengths: Tensor
    copied: Tensor
    boundary: Tensor
    valid: int
    source_rows: int
    cut: int = 0

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def mask(self) -> Tensor:
        """``[V, L]`` bool, True where a form has a token."""
        return torch.arange(self.ids.shape[1], device=self.ids.device) < self.lengths[:, None]

    def map(self, function: Callable[[Tensor], Tensor]) -> TokenForms:
        """A copy with the function applied to all tensors."""
        parts = (self.ids, self.lengths, self.copied, self.boundary)
        return TokenForms(*map(function, parts), self.valid, self.source_rows, self.cut)

    def shared(self) -> tuple[Tensor, Tensor]:
        """Tokens that are tokens of the source too, and the latter's ids, ``[P]`` each."""
        single = (self.lengths == 1) & ~self.copied & (self.ids[:, 0] < self.source_rows)
        tokens = single[: self.valid].nonzero().squeeze(1)
        return tokens, self.ids[tokens, 0]


def make_token_forms(
    tok: ByteifiedTokenizer,
    source_tok: ByteifiedTokenizer,
    max_length: int,
    *,
    source_rows: int,
    bytes_behind: bool = False,
    rows: int = 0,
    space_mask_mode: str = "space+tab+newline+special",
) -> TokenForms:
    """Spell a tokenizer's tokens.

    Args:
        source_rows: rows of the source's matrices; special tokens without a row are spelt out.
        bytes_behind: bytes that are no text are the ids behind the source's rows.
        rows: pad to at least this many.

    Raises:
        TokenizerError: if a token cannot be spelt.
    """
    count = len(tok)
    rows = max(rows, count)
    spelt, lengths = surface_forms(
        tok.tokens, source_tok, max_length, source_rows if bytes_behind else None
    )
    ids = np.full((rows, max_length), source_tok.pad_id, np.int64)
    ids[:count] = spelt
    padded = np.ones(rows, np.int64)
    padded[:count] = lengths.clip(1, max_length)  # an id without a token is spelt as padding
    boundary = np.zeros(rows, bool)
    boundary[:count] = tok.space_mask(space_mask_mode)
    same_role = special_pairs(source_tok, tok, source_rows)
    for i in tok.special_ids - set(same_role):
        source = source_tok.ids.get(tok.tokens[i], source_rows)
        if source in source_tok.special_ids and source < source_rows:
            same_role[i] = source
    copied = np.zeros(rows, bool)
    if same_role:
        special = list(same_role)
        copied[special], padded[special] = True, 1
        ids[special, 0] = list(same_role.values())
    parts = map(torch.from_numpy, (ids, padded, copied, boundary))
    return TokenForms(*parts, count, source_rows, int((lengths > max_length).sum()))


def forms_for(
    config: Config,
    tok: ByteifiedTokenizer,
    source_tok: ByteifiedTokenizer,
    source_rows: int,
    rows: int = 0,
) -> TokenForms:
    """A tokenizer's tokens as a run's hypernetwork is given them; see :func:`make_token_forms`."""
    return make_token_forms(
        tok,
        source_tok,
        config.hypernet.max_surface_length,
        source_rows=source_rows,
        bytes_behind=config.hypernet.byte_embeddings,
        rows=rows,
        space_mask_mode=config.alm.space_mask_mode,
    )


def own_forms(ids: Tensor, valid: int, source_rows: int) -> TokenForms:
    """Source tokens ``[V]`` that are spelt by themselves; the first ``valid`` are real."""
    none = torch.zeros_like(ids, dtype=torch.bool)
    return TokenForms(ids[:, None], torch.ones_like(ids), none, none, valid, source_rows)
