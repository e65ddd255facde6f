"""Where each token of a new vocabulary gets its rows from; what all initialisers share.

Special tokens go by their role, tokens that both vocabularies have are *shared*, others are cut
into pieces by the source tokenizer, and what it cannot cut at all (part of a character, say) can
only be drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from tokenkit.errors import ModelError
from tokenkit.tokenizers import ByteifiedTokenizer, special_pairs
from tokenkit.transfer.new_rows import Combination, make_matrix, means


@dataclass(frozen=True)
class Plan:
    """Where rows come from; every id of the target is in exactly one of the four places.

    Attributes:
        rows: size of the target vocabulary.
        special: target ids ``[S]`` and source ids ``[S]`` of tokens with the same role.
        shared: target ids ``[E]`` and source ids ``[E]`` of tokens that both have.
        composed: the rest as sums of source rows; of :func:`make_plan`, means of their pieces.
        drawn: target ids ``[F]`` of what is left.
    """

    rows: int
    special: tuple[Tensor, Tensor]
    shared: tuple[Tensor, Tensor]
    composed: Combination
    drawn: Tensor

    @property
    def report(self) -> dict[str, int]:
        """Number of tokens by origin; ``fallback`` are those made without regard to the token."""
        return {
            "special": len(self.special[0]),
            "exact": len(self.shared[0]),
            "averaged": len(self.composed),
            "fallback": len(self.drawn),
        }

    def without_composition(self) -> Plan:
        """The same, with nothing composed: such tokens are drawn, too."""
        drawn = torch.cat([self.composed.targets, self.drawn]).sort().values
        return replace(self, composed=Combination.join([]), drawn=drawn)

    def without_sharing(self) -> Plan:
        """The same, with only special tokens copied: all others are drawn."""
        plan = self.without_composition()
        drawn = torch.cat([plan.drawn, plan.shared[0]]).sort().values
        none = torch.zeros(0, dtype=torch.long)
        return replace(plan, shared=(none, none), drawn=drawn)

    def composing(self, composed: Combination) -> Plan:
        """The same, with other compositions; what they leave out keeps the pieces' mean."""
        parts = [composed]
        remade = torch.isin(self.composed.targets, composed.targets)
        if not remade.all():
            old = torch.repeat_interleave(~remade, self.composed.counts)
            c = self.composed
            parts.append(
                Combination(c.targets[~remade], c.counts[~remade], c.sources[old], c.weights[old])
            )
        drawn = self.drawn[~torch.isin(self.drawn, composed.targets)]
        return replace(self, composed=Combination.join(parts), drawn=drawn)

    def carry_out(self, matrices: Sequence[Tensor], seed: int, spread: float = 1.0) -> list[Tensor]:
        """The new matrices ``[V_t, D]``, each in its dtype and on its device.

        Args:
            seed: of the rows that are drawn.
            spread: factor on their standard deviation; 0 makes them the mean of all rows.
        """
        generator = torch.Generator().manual_seed(seed)
        return [self.make(matrix, generator, spread) for matrix in matrices]

    def make(self, matrix: Tensor, generator: torch.Generator, spread: float = 1.0) -> Tensor:
        """One new matrix ``[V_t, D]``; see :meth:`carry_out`."""
        copied = tuple(torch.cat(pair) for pair in zip(self.special, self.shared, strict=True))
        return make_matrix(matrix, self.rows, copied, self.composed, self.drawn, generator, spread)


def make_plan(
    source_tok: ByteifiedTokenizer, target_tok: ByteifiedTokenizer, matrices: Sequence[Tensor]
) -> Plan:
    """Decide for every target token where its rows come from.

    Args:
        matrices: ``[V_s, D]`` each; source ids without a row are not used.

    Raises:
        ModelError: if the matrices differ in their number of rows.
    """
    sizes = {len(matrix) for matrix in matrices}
    if len(sizes) != 1:
        raise ModelError(f"matrices of one vocabulary have different numbers of rows: {sizes}")
    rows = sizes.pop()
    exact = np.array([source_tok.ids.get(t, -1) if t else -1 for t in target_tok.tokens], np.int64)
    source_of = np.where(exact < rows, exact, -1)
    special = special_pairs(source_tok, target_tok, rows)
    source_of[list(special)] = list(special.values())
    _prefer_same_spelling(source_tok, target_tok, source_of, rows)
    is_special = np.zeros(len(source_of), bool)
    is_special[list(special)] = True
    # A token that the source has, but without a row, is not cut further.
    missing = np.flatnonzero((source_of < 0) & (exact < 0))
    cut = source_tok.tokenize_bytes_batch([target_tok.tokens[i] for i in missing])
    cut = [[piece for piece in pieces if piece < rows] for pieces in cut]
    composed = [i for i, pieces in zip(missing, cut, strict=True) if pieces]
    pieces = [pieces for pieces in cut if pieces]
    drawn = np.setdiff1d(np.flatnonzero(source_of < 0), composed)

    def pairs(chosen: np.ndarray) -> tuple[Tensor, Tensor]:
        ids = np.flatnonzero(chosen)
        return torch.from_numpy(ids), torch.from_numpy(source_of[ids])

    return Plan(
        len(target_tok),
        pairs(is_special),
        pairs((source_of >= 0) & ~is_special),
        means(
            torch.tensor(composed, dtype=torch.long),
            torch.tensor([piece for found in pieces for piece in found], dtype=torch.long),
            torch.tensor([len(found) for found in pieces], dtype=torch.long),
        ),
        torch.from_numpy(drawn),
    )


def _prefer_same_spelling(
    source_tok: ByteifiedTokenizer, target_tok: ByteifiedTokenizer, source_of: np.ndarray, rows: int
) -> None:
    """Where two source ids stand for the same bytes, take the one that is spelt as the target's.

    Such are a SentencePiece tokenizer's "\\t" and "<0x09>", and ids without a token; so moving to
    the same tokenizer changes no row.
    """
    vocabulary = source_tok.hf.get_vocab()
    twins = [i for i, token in enumerate(target_tok.tokens) if target_tok.ids.get(token) != i]
    for i, native in zip(twins, target_tok.hf.convert_ids_to_tokens(twins), strict=True):
        token = target_tok.tokens[i]
        source = vocabulary.get(native, -1) if token else i
        same = 0 <= source < min(rows, len(source_tok)) and source_tok.tokens[source] == token
        # A special token keeps the row of its role.
        chosen = source_of[i]
        if same and (chosen < 0 or source_tok.tokens[chosen] == token):
            source_of[i] = source
