"""A vocabulary as a hypernetwork sees it: every token spelt with the source's tokens."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tokenkit.tokenizers import ByteifiedTokenizer, special_pairs, surface_forms


@dataclass(frozen=True)
class TokenForms:
    """V tokens, of which ``valid`` are real and the rest padding.

    Attributes:
        ids: ``[V, L]`` int64 source ids; from the source's number of rows on, bytes.
        lengths: ``[V]`` int64, tokens in each form; 1 for padding.
        special: ``[2, S]`` int64, tokens and the source tokens they are copied from.
        boundary: ``[V]`` bool, tokens that begin a new word.
        valid: number of real tokens.
    """

    ids: Tensor
    lengths: Tensor
    special: Tensor
    boundary: Tensor
    valid: int

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def mask(self) -> Tensor:
        """``[V, L]`` bool, True where a form has a token."""
        return torch.arange(self.ids.shape[1], device=self.ids.device) < self.lengths[:, None]

    def to(self, device: torch.device) -> TokenForms:
        """A copy on ``device``."""
        parts = (self.ids, self.lengths, self.special, self.boundary)
        return TokenForms(*(part.to(device, non_blocking=True) for part in parts), self.valid)

    def shared(self) -> tuple[Tensor, Tensor]:
        """Tokens that are tokens of the source too, and the latter's ids, ``[P]`` each."""
        single = self.lengths[: self.valid] == 1
        single[self.special[0]] = False
        tokens = single.nonzero().squeeze(1)
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
    pairs = special_pairs(source_tok, tok, source_rows)
    special = np.array([[*pairs], [*pairs.values()]], np.int64).reshape(2, -1)
    return TokenForms(*map(torch.from_numpy, (ids, padded, special, boundary)), count)


def own_forms(ids: Tensor, source_rows: int) -> TokenForms:
    """Source tokens ``[V]`` that are spelt by themselves."""
    none = torch.zeros(2, 0, dtype=torch.int64, device=ids.device)
    boundary = torch.zeros_like(ids, dtype=torch.bool)
    return TokenForms(ids[:, None], torch.ones_like(ids), none, boundary, len(ids))
