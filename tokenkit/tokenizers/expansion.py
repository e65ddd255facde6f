"""Input-id expansion: every byte also knows the longest subword token that ends with it.

A byte-level model made from a subword model may add, to the embedding of each byte, that of a
subword token of its old vocabulary (Minixhofer et al., "Universal Cross-Tokenizer Distillation
via Approximate Likelihood Matching", 2025). The subword is the longest one whose bytes are the
last ones read, so it is known during generation, too.
"""

from __future__ import annotations

import numpy as np
from tokenizers import Tokenizer

from tokenkit.byte_model.suffix_trie import SuffixTrie
from tokenkit.errors import TokenizerError
from tokenkit.tokenizers.families import MARKERS
from tokenkit.tokenizers.tokenizer import ByteifiedTokenizer


class InputExpander:
    """Expands ids of a byte-level tokenizer into ids of a subword tokenizer.

    It holds arrays only, so data workers can have a copy.

    Attributes:
        trie: of subwords, in ids of the byte-level tokenizer.
        longest: byte tokens of the longest subword: as far back a match may reach.
        pad_id: what masked positions become: the subword tokenizer's padding.
    """

    def __init__(self, byte_tok: ByteifiedTokenizer, subword_tok: ByteifiedTokenizer) -> None:
        """Build the trie.

        Args:
            byte_tok: a tokenizer with ``conversion=byte``.
            subword_tok: whose ids are wanted.

        Raises:
            TokenizerError: if ``byte_tok`` is not byte-level.
        """
        if byte_tok.spec.conversion != "byte":
            raise TokenizerError(
                f"tokenizer '{byte_tok.spec}' is not byte-level; add ':conversion=byte' to expand "
                "its ids"
            )
        self.pad_id = subword_tok.pad_id
        self._outside = len(byte_tok)  # stands for masked positions
        singles = np.append(_single_tokens(byte_tok, subword_tok), self.pad_id)
        words, lengths, values = _subwords(byte_tok, subword_tok)
        self.longest = int(lengths.max(initial=1))
        self.trie = SuffixTrie.build(singles, words, lengths, values)

    def expand(
        self,
        ids: np.ndarray,
        mask: np.ndarray | None = None,
        begins: np.ndarray | None = None,
    ) -> np.ndarray:
        """Longest subword that ends at each position.

        Args:
            ids: integers ``[B, T]`` of the byte-level tokenizer.
            mask: bool ``[B, T]``, False for padding, which becomes ``pad_id`` and which no
                match crosses; None: all positions count.
            begins: bool ``[B, T]``, first positions of documents, before which no match begins;
                None: a row is a document.

        Returns:
            int32 ``[B, T]`` of the subword tokenizer.

        Raises:
            TokenizerError: if the shapes do not fit or an unmasked id is not in the vocabulary.
        """
        symbols = self._symbols(ids, mask)
        return self.trie.longest(symbols, np.zeros(ids.shape, bool) if begins is None else begins)

    def _symbols(self, ids: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
        """Ids ``[B, T]``, those that do not count replaced."""
        if ids.ndim != 2 or (mask is not None and mask.shape != ids.shape):
            shapes = ids.shape if mask is None else (ids.shape, mask.shape)
            raise TokenizerError(f"ids (and mask) to expand must be [B, T], not {shapes}")
        counts = np.ones(ids.shape, bool) if mask is None else mask.astype(bool)
        invalid = counts & ((ids < 0) | (ids >= self._outside))
        if invalid.any():
            raise TokenizerError(
                f"id {ids[invalid][0]} is not in the byte-level vocabulary of {self._outside}"
            )
        return np.where(counts, ids, self._outside)


def _single_tokens(byte_tok: ByteifiedTokenizer, subword_tok: ByteifiedTokenizer) -> np.ndarray:
    """Subword id of every byte token by itself, int32 ``[V_byte]``.

    It is the same token where the subword vocabulary has it, else for a special token the one
    with its role, else the last token that spells it, else padding.
    """
    roles = {}
    for marker in reversed(MARKERS):
        theirs, ours = byte_tok.family.replacements[marker], subword_tok.family.replacements[marker]
        if theirs and ours:
            roles[theirs[0]] = subword_tok.ids.get(ours[0])
    special = set(byte_tok.family.special_tokens)
    values = np.full(len(byte_tok), subword_tok.pad_id, np.int32)
    for i, token in enumerate(byte_tok.tokens):
        value = subword_tok.ids.get(token)
        if value is None and token in special:
            value = roles.get(token)
        elif value is None:
            value = next(reversed(subword_tok.tokenize_bytes(token)), None)
        if value is not None:
            values[i] = value
    return values


def _subwords(
    byte_tok: ByteifiedTokenizer, subword_tok: ByteifiedTokenizer
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Subword tokens of several byte tokens.

    Returns:
        byte ids of all of them, joined ``[n]``, their numbers ``[W]`` and subword ids ``[W]``.
    """
    tokens = [token for token in subword_tok.ids if token not in byte_tok.ids]
    # The model alone also takes part of a UTF-8 character, as every byte is a token of its own.
    bare = Tokenizer(byte_tok.hf.backend_tokenizer.model)
    encoded = [e.ids for e in bare.encode_batch_fast(tokens, add_special_tokens=False)]
    lengths = np.array([len(ids) for ids in encoded], np.int64)
    flat = np.fromiter((i for ids in encoded for i in ids), np.int64, lengths.sum())
    ends = lengths.cumsum()

    def totals(per_piece: np.ndarray) -> np.ndarray:
        sums = np.append(0, per_piece.cumsum())
        return sums[ends] - sums[ends - lengths]

    # Text that cannot be written in bytes (a special token's own alphabet) was left out above.
    spelt = totals(np.array([len(token) for token in byte_tok.tokens])[flat])
    special = totals(np.isin(flat, list(byte_tok.special_ids)))
    complete = (spelt == [len(token) for token in tokens]) & (special == 0) & (lengths > 1)
    values = np.array([subword_tok.ids[token] for token in tokens], np.int32)
    return flat[np.repeat(complete, lengths)], lengths[complete], values[complete]
