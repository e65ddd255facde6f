"""How the tokens of one model, the pivot, look to another that runs in lockstep with it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tokenkit.errors import TokenizerError
from tokenkit.tokenizers import ByteifiedTokenizer
from tokenkit.tokenizers.families import PAD
from tokenkit.tokenizers.pairs.mined import compute_mined_mapping
from tokenkit.tokenizers.translation import IdTranslation


@dataclass
class TokenMap:
    """Both ways between the pivot's V tokens and a member's W.

    Attributes:
        reads: int64 ``[V]``, the member's id for each of the pivot's; −1: it cannot read this.
        columns: int64 ``[V]``, where the member's probability of each of the pivot's tokens stands
            (−1: nowhere), or ``[W]``, to which of the pivot's tokens each one's probability goes.
        moves: the latter.
    """

    reads: Tensor
    columns: Tensor
    moves: bool = False

    def to_pivot(self, logprobs: Tensor) -> Tensor:
        """Log-probs ``[N, V]`` of the pivot's tokens from the member's ``[N, W']``, W' ≥ W."""
        columns = self.columns.to(logprobs.device)
        if self.moves:
            given = logprobs[:, : len(columns)].exp() * (columns >= 0)
            moved = given.new_zeros(len(given), len(self.reads))
            return moved.index_add_(1, columns.clamp(min=0), given).log()
        there = columns >= 0
        return torch.where(there, logprobs[:, columns.clamp(min=0)], -torch.inf)


def regular_tokens(tok: ByteifiedTokenizer) -> set[str]:
    """Byteified tokens of the vocabulary proper: none that was added to it, special or not."""
    added = {*tok.hf.added_tokens_decoder, *tok.special_ids}
    return {token for i, token in enumerate(tok.tokens) if token and i not in added}


def shared_map(pivot: ByteifiedTokenizer, member: ByteifiedTokenizer) -> TokenMap:
    """Regular tokens by their bytes, others by name, else by role.

    Raises:
        TokenizerError: if one has a regular token that the other lacks.
    """
    ours, theirs = regular_tokens(pivot), regular_tokens(member)
    for one, other, tokens in (
        (pivot, member, ours - set(member.ids)),
        (member, pivot, theirs - set(pivot.ids)),
    ):
        if tokens:
            example = min(tokens, key=lambda token: one.ids[token])
            raise TokenizerError(
                f"models in lockstep need the same regular tokens, but {len(tokens):,} of "
                f"'{one.spec}' are not in '{other.spec}', such as {example!r}; transfer one to "
                'the other\'s tokenizer first, or use combine = "mined_pivot"'
            )
    reads = _translated(pivot, member)
    columns, taken = np.full(len(pivot), -1), set()
    pads = set(_marker(pivot, PAD))
    same = [i for i in range(len(pivot)) if reads[i] >= 0]
    # Tokens of one name first; where two have one role, a pad is the other's end of text.
    for i in sorted(same, key=lambda i: (member.tokens[reads[i]] != pivot.tokens[i], i in pads)):
        if reads[i] not in taken:
            columns[i] = reads[i]
            taken.add(reads[i])
    return TokenMap(torch.from_numpy(reads), torch.from_numpy(columns))


def mined_map(pivot: ByteifiedTokenizer, member: ByteifiedTokenizer) -> TokenMap:
    """Every token by the nearest one in edit distance; special tokens by name, else by role.

    The probability of each of the member's tokens moves to the nearest of the pivot's, and the
    pivot's tokens are read as the nearest ones that the member has.
    """
    return TokenMap(
        torch.from_numpy(_nearest(pivot, member)),
        torch.from_numpy(_nearest(member, pivot)),
        moves=True,
    )


def _translated(source: ByteifiedTokenizer, target: ByteifiedTokenizer) -> np.ndarray:
    """int64 ``[V]``: the target's id of each of the source's ids, −1 for none."""
    translate = IdTranslation(source, target)
    natives, known = source.hf.convert_ids_to_tokens(range(len(source))), target.hf.get_vocab()
    found = np.full(len(source), -1)
    for i, token in enumerate(source.tokens):
        same = known.get(natives[i], -1)
        # Two ids may spell the same bytes, as a piece and as a byte; their names differ.
        by_native = token and 0 <= same < len(target) and target.tokens[same] == token
        own = same if by_native else translate(i)
        found[i] = -1 if own is None else own
    return found


def _nearest(source: ByteifiedTokenizer, target: ByteifiedTokenizer) -> np.ndarray:
    """int64 ``[V]``: the nearest token of the target; of a special one, that of the same role."""
    ids = compute_mined_mapping(teacher_tok=target, student_tok=source).teacher_ids.astype(np.int64)
    named = {i for i, t in source.hf.added_tokens_decoder.items() if t.special}
    special = np.array(sorted(named | source.special_ids), int)
    ids[special] = _translated(source, target)[special]
    return ids


def _marker(tok: ByteifiedTokenizer, marker: str) -> Iterable[int]:
    ids = tok.marker_ids[marker]
    return [] if ids is None else ids.tolist()
