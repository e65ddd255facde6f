"""A vocabulary of bytes that also reads the subword that ends with each byte (input-id expansion).

The embedding of a position is that of its byte plus that of the longest subword of the source
model's vocabulary whose bytes are the last ones read (arXiv 2503.20083). The table of subwords is
the source's input matrix, frozen as in the reference; so it needs no fp32 master. Bytes have an
output matrix of their own: tying it would save nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from tokenkit.byte_model.suffix_trie import SuffixTrie
from tokenkit.config import Config
from tokenkit.models.vocabulary.registry import VOCABULARIES
from tokenkit.models.vocabulary.table import Vocabulary
from tokenkit.ops.copy_full import copy_full

if TYPE_CHECKING:
    from tokenkit.batch import Sequences


@dataclass(frozen=True)
class Expansion:
    """What bytes are expanded by.

    Attributes:
        subwords: ``[V_s, D]``, embeddings of subwords.
        trie: finds a subword's id; its symbols are ids of bytes, and one more for padding.
        longest: bytes of the longest subword.
    """

    subwords: Tensor
    trie: SuffixTrie
    longest: int

    def ids(self, seq: Sequences) -> Tensor:
        """Ids ``[B, T]`` of the longest subwords that end at each place of what is read."""
        if seq.subwords is not None:
            return seq.subwords
        symbols = torch.where(seq.mask, seq.ids, self.trie.symbols - 1).cpu().numpy()
        begins: np.ndarray = np.zeros(symbols.shape, bool)
        if seq.positions is not None:
            begins = (seq.positions == 0).cpu().numpy()
        return torch.from_numpy(self.trie.longest(symbols, begins)).long().to(seq.ids.device)


@VOCABULARIES.register("expanded")
class ExpandedVocabulary(Vocabulary):
    """Matrices of bytes (``input``, ``output``) and a frozen one of ``subwords``.

    Args:
        expansion: its matrix is copied when this is filled.
        subword_dtype: of the table of subwords.
        options: of :class:`Vocabulary`.
    """

    def __init__(
        self,
        rows: int,
        hidden_size: int,
        *,
        expansion: Expansion,
        subword_dtype: torch.dtype,
        **options,
    ) -> None:
        super().__init__(rows, hidden_size, tied=False, **options)
        made = torch.empty(expansion.subwords.shape, device=self.input.device, dtype=subword_dtype)
        self.subwords = nn.Parameter(made, requires_grad=False)
        self._expansion = expansion

    @classmethod
    def wanted(cls, config: Config) -> bool:
        return config.student.expand_input_ids

    @classmethod
    def over(
        cls,
        table: Vocabulary,
        config: Config,
        compute_dtype: torch.dtype,
        expansion: Expansion | None,
    ) -> Vocabulary:
        assert expansion is not None
        return cls(
            *table.input.shape,
            expansion=expansion,
            subword_dtype=compute_dtype,
            valid_vocab=table.valid_vocab,
            embed_scale=table.embed_scale,
            softcap=table.softcap,
            logit_scale=table.logit_scale,
            device=table.input.device,
            dtype=table.input.dtype,
        )

    @property
    def expansion(self) -> Expansion:
        return self._expansion

    def fill(self, inputs: Tensor, outputs: Tensor | None) -> None:
        super().fill(inputs, outputs)
        copy_full(self.subwords, self._expansion.subwords)

    def embed(self, seq: Sequences) -> Tensor:
        subwords = self.look_up(self.subwords, self._expansion.ids(seq))
        return self.scaled(self.look_up(self.input, seq.ids) + subwords)
