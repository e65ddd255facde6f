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
        single: ``[V]`` bool, tokens that are tokens of the source too; see :func:`shared_tokens`.
        valid: number of real tokens.
        source_rows: rows of the source's matrices.
        cut: tokens whose form was too long.
    """

    ids: Tensor
    lengths: Tensor
    copied: Tensor
    boundary: Tensor
    single: Tensor
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
        parts = (self.ids, self.lengths, self.copied, self.boundary, self.single)
        ids, lengths, copied, boundary, single = map(function, parts)
        rest = self.valid, self.source_rows, self.cut
        return TokenForms(ids, lengths, copied, boundary, single, *rest)

    def shared(self) -> tuple[Tensor, Tensor]:
        """Tokens that are tokens of the source too, and the latter's ids, ``[P]`` each."""
        tokens = self.single[: self.valid].nonzero().squeeze(1)
        return tokens, self.ids[tokens, 0]


def shared_tokens(tok: ByteifiedTokenizer, source_tok: ByteifiedTokenizer) -> tuple[Tensor, Tensor]:
    """Tokens of ``tok`` that the source spells as one token of the same name.

    Not those that its merges never reach, nor the second of two ids for the same bytes. Special
    tokens count where they play a role on both sides that is the same; others only share a name.

    Returns:
        Ids and the source's ids, int64 ``[P]`` each.
    """
    common = [token if token in source_tok.ids else "" for token in tok.tokens]
    spelt, lengths = surface_forms(common, source_tok, 1)
    tokens = np.flatnonzero(_single(tok, source_tok, spelt[:, 0], lengths, len(source_tok)))
    return torch.from_numpy(tokens), torch.from_numpy(spelt[tokens, 0].astype(np.int64))


def _single(
    tok: ByteifiedTokenizer,
    source_tok: ByteifiedTokenizer,
    first: np.ndarray,
    lengths: np.ndarray,
    source_rows: int,
) -> np.ndarray:
    """Mask ``[V]`` of :func:`shared_tokens`, given each form's first token and its length."""
    first_of_twins = np.array([tok.ids.get(token) == i for i, token in enumerate(tok.tokens)])
    theirs = np.array([source_tok.ids.get(token, -1) if token else -1 for token in tok.tokens])
    single = first_of_twins & (lengths == 1) & (first == theirs) & (theirs < source_rows)
    pairs = special_pairs(source_tok, tok, source_rows)
    special = np.isin(theirs, list(source_tok.special_ids))
    special[[*pairs, *tok.special_ids]] = True
    for i in np.flatnonzero(single & special).tolist():
        same_role = _roles(tok, i) & _roles(source_tok, int(theirs[i]))
        single[i] = pairs[i] == theirs[i] if i in pairs else bool(same_role)
    return single


def _roles(tok: ByteifiedTokenizer, i: int) -> set[str]:
    """The markers that token ``i`` stands for, alone or as their first token."""
    by_marker = tok.family.replacements.items()
    return {marker for marker, tokens in by_marker if tokens and tokens[0] == tok.tokens[i]}


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
    single = np.zeros(rows, bool)
    single[:count] = _single(tok, source_tok, spelt[:, 0], lengths, source_rows)
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
    parts = map(torch.from_numpy, (ids, padded, copied, boundary, single))
    cut = int((lengths > max_length).sum())
    return TokenForms(*parts, count, source_rows, cut)  # type: ignore[call-arg]


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
    return TokenForms(ids[:, None], torch.ones_like(ids), none, none, ~none, valid, source_rows)
