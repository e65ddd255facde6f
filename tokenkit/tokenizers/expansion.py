"""Input-id expansion: every byte also knows the longest subword token that ends with it.

A byte-level model made from a subword model may add, to the embedding of each byte, that of a
subword token of its old vocabulary (Minixhofer et al., "Universal Cross-Tokenizer Distillation
via Approximate Likelihood Matching", 2025). The subword is the longest one whose bytes are the
last ones read, so it is known during generation, too.

The subwords' byte tokens, read backwards, form a trie. All positions of a batch walk it together,
one level at a time, and leave it where it has no further node; one level is one binary search in
a sorted array of edges, so a match is exact.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from tokenizers import Tokenizer

from tokenkit.errors import TokenizerError
from tokenkit.tokenizers.families import MARKERS
from tokenkit.tokenizers.tokenizer import ByteifiedTokenizer

MAX_LENGTH = 16
# Positions that walk the trie together; few enough for the processor's caches.
BLOCK = 1 << 17


@dataclass
class _Level:
    """Nodes of the trie at one depth.

    Attributes:
        edges: int32 ``[N]``, sorted: ``parent * base + byte id``; its index is the node.
        values: int32 ``[N]``, subword id that ends at a node; -1 for none.
    """

    edges: np.ndarray
    values: np.ndarray


class InputExpander:
    """Expands ids of a byte-level tokenizer into ids of a subword tokenizer.

    It holds arrays only, so data workers can have a copy.

    Attributes:
        max_length: byte tokens that a match reaches back at most.
        pad_id: what masked positions become: the subword tokenizer's padding.
    """

    def __init__(
        self,
        byte_tok: ByteifiedTokenizer,
        subword_tok: ByteifiedTokenizer,
        max_length: int = MAX_LENGTH,
        *,
        long_tokens: bool = True,
    ) -> None:
        """Build the trie.

        Args:
            byte_tok: a tokenizer with ``conversion=byte``.
            subword_tok: whose ids are wanted.
            long_tokens: whether a subword of more than ``max_length`` byte tokens is recognised
                by its last ``max_length``, as in the reference; where several have the same
                ones, the longest wins. Otherwise such subwords never match.

        Raises:
            TokenizerError: if ``byte_tok`` is not byte-level or ``max_length`` is below 1.
        """
        if byte_tok.spec.conversion != "byte":
            raise TokenizerError(
                f"tokenizer '{byte_tok.spec}' is not byte-level; add ':conversion=byte' to expand "
                "its ids"
            )
        if max_length < 1:
            raise TokenizerError(f"max_length of an expansion is {max_length} (expected 1 or more)")
        self.max_length = max_length
        self.pad_id = subword_tok.pad_id
        self._outside = len(byte_tok)  # stands for masked positions and those before a row
        self._base = self._outside + 1
        self._first = np.append(_single_tokens(byte_tok, subword_tok), self.pad_id).astype(np.int32)
        rows, lengths, values = _subwords(byte_tok, subword_tok, max_length)
        if not long_tokens:
            fits = lengths <= max_length
            rows, lengths, values = rows[fits], lengths[fits], values[fits]
        self._levels = _build_levels(rows, lengths, values, self._base)

    def expand(self, ids: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
        """Longest subword that ends at each position.

        Args:
            ids: integers ``[B, T]`` of the byte-level tokenizer.
            mask: bool ``[B, T]``, False for padding, which becomes ``pad_id`` and which no
                match crosses; None: all positions count.

        Returns:
            int32 ``[B, T]`` of the subword tokenizer.

        Raises:
            TokenizerError: if the shapes do not fit or an unmasked id is not in the vocabulary.
        """
        padded = self._padded(ids, mask)
        batch, length = ids.shape
        places = np.arange(batch)[:, None] * padded.shape[1] + np.arange(length)
        places = (places + self.max_length - 1).ravel()
        return self._walk(padded.ravel(), places).reshape(batch, length)

    def expand_last(self, context: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
        """Longest subword that ends at the last position, for generation.

        Args:
            context: integers ``[B, T]``, the newest ``max_length`` ids of each row or more (all
                there are, at the start of a row).
            mask: bool ``[B, T]``, False for padding on the left.

        Returns:
            int32 ``[B]``, the last column that :meth:`expand` gives for the whole rows.

        Raises:
            TokenizerError: as :meth:`expand`, and if a row is empty.
        """
        if context.ndim == 2 and context.shape[1] == 0:
            raise TokenizerError("cannot expand the last id of empty rows")
        newest = None if mask is None else mask[:, -self.max_length :]
        padded = self._padded(context[:, -self.max_length :], newest)
        places = np.arange(1, len(padded) + 1) * padded.shape[1] - 1
        return self._walk(padded.ravel(), places)

    def _padded(self, ids: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
        """Ids int32 ``[B, max_length - 1 + T]``, those that do not count replaced."""
        if ids.ndim != 2 or (mask is not None and mask.shape != ids.shape):
            shapes = ids.shape if mask is None else (ids.shape, mask.shape)
            raise TokenizerError(f"ids (and mask) to expand must be [B, T], not {shapes}")
        before = self.max_length - 1
        padded = np.full((ids.shape[0], before + ids.shape[1]), self._outside, np.int32)
        kept = ids if mask is None else np.where(mask, ids, self._outside)
        # The replacement itself is no id that a caller may give.
        invalid = (kept < 0) | (kept > (self._outside - (mask is None)))
        if mask is not None:
            invalid |= mask.astype(bool) & (kept == self._outside)
        if invalid.any():
            raise TokenizerError(
                f"id {kept[invalid][0]} is not in the byte-level vocabulary of {self._outside}"
            )
        padded[:, before:] = kept
        return padded

    def _walk(self, ids: np.ndarray, places: np.ndarray) -> np.ndarray:
        """Expansions int32 ``[P]`` of the ids at ``places`` ``[P]`` of the joined rows."""
        expanded = np.empty(len(places), np.int32)
        for begin in range(0, len(places), BLOCK):
            block = slice(begin, begin + BLOCK)
            expanded[block] = self._walk_block(ids, places[block])
        return expanded

    def _walk_block(self, ids: np.ndarray, places: np.ndarray) -> np.ndarray:
        node = ids[places]
        expanded = self._first[node]
        active = np.arange(len(places))
        for level in self._levels:
            places = places - 1
            edge = node * np.int32(self._base) + ids[places]
            node = np.searchsorted(level.edges, edge).astype(np.int32)
            node[node == len(level.edges)] = 0
            found = np.flatnonzero(level.edges[node] == edge)
            if not len(found):
                break
            node, places, active = node[found], places[found], active[found]
            value = level.values[node]
            ends = value >= 0
            expanded[active[ends]] = value[ends]
        return expanded


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
    byte_tok: ByteifiedTokenizer, subword_tok: ByteifiedTokenizer, max_length: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Subword tokens of several byte tokens, shortest first.

    Returns:
        byte ids int32 ``[N, max_length]`` from the last one backwards (beyond the length: 0),
        their numbers ``[N]`` (may exceed ``max_length``) and subword ids int32 ``[N]``.
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
    kept = np.flatnonzero(complete)
    kept = kept[np.argsort(lengths[kept], kind="stable")]
    back = np.arange(max_length)
    rows = flat[np.maximum(ends[kept, None] - 1 - back, 0)]
    rows[back >= lengths[kept, None]] = 0
    values = np.array([subword_tok.ids[token] for token in tokens], np.int32)
    return rows.astype(np.int32), lengths[kept], values[kept]


def _build_levels(
    rows: np.ndarray, lengths: np.ndarray, values: np.ndarray, base: int
) -> list[_Level]:
    """The trie below its first level, whose nodes are the byte ids themselves."""
    levels = []
    node = rows[:, 0]
    for depth in range(2, rows.shape[1] + 1):
        deep = lengths >= depth
        rows, lengths, values, node = rows[deep], lengths[deep], values[deep], node[deep]
        if not len(rows):
            break
        edges, node = np.unique(node * np.int32(base) + rows[:, depth - 1], return_inverse=True)
        ids = np.full(len(edges), -1, np.int32)
        ends = (lengths == depth) if depth < rows.shape[1] else np.ones(len(rows), bool)
        ids[node[ends]] = values[ends]  # of several, the last: the longest
        node = node.astype(np.int32)
        levels.append(_Level(edges.astype(np.int32), ids))
    return levels
