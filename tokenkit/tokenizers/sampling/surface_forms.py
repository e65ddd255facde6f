"""Surface forms: how a token of any vocabulary is spelt with the tokens of one fixed tokenizer.

A hypernetwork that has never seen a token knows it by these (ZeTT, arXiv 2405.07883, §3).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tokenkit.errors import TokenizerError
from tokenkit.tokenizers.alphabet import BYTE_CHARACTERS, literal_bytes, to_alphabet
from tokenkit.tokenizers.tokenizer import ByteifiedTokenizer


def surface_forms(
    tokens: Sequence[str],
    tok: ByteifiedTokenizer,
    max_length: int,
    byte_offset: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Spell tokens with ``tok``, the hypernetwork's tokenizer.

    A special token of ``tok`` is itself. Bytes at a token's ends that are only part of a
    character are spelt one by one.

    Args:
        tokens: byteified strings, V of them.
        max_length: longest form; what is longer is cut.
        byte_offset: id of byte 0 where bytes have ids of their own (extra byte embeddings behind
            a vocabulary); None = the ids of ``tok``'s single-byte tokens.

    Returns:
        int32 ids ``[V, max_length]``, padded with ``tok.pad_id``, and int64 lengths ``[V]`` before
        cutting.

    Raises:
        TokenizerError: if a byte must be spelt alone and ``tok`` has no token for it.
    """
    special = {tok.tokens[i]: i for i in tok.special_ids}
    raw = [literal_bytes(token) for token in tokens]
    edges = [whole_characters(r) for r in raw]
    middles = [to_alphabet(r[a:b]) for r, (a, b) in zip(raw, edges, strict=True)]
    spelt = tok.tokenize_bytes_batch(middles)
    ids_of_byte = _ByteIds(tok, byte_offset)
    forms: list[list[int]] = []
    for token, r, (a, b), ids in zip(tokens, raw, edges, spelt, strict=True):
        if token in special:
            ids = [special[token]]
        elif b - a < len(r):
            ids = [*ids_of_byte(r[:a]), *ids, *ids_of_byte(r[b:])]
        forms.append(ids)
    lengths = np.array([len(form) for form in forms], np.int64)
    matrix = np.full((len(forms), max_length), tok.pad_id, np.int32)
    filled = np.arange(max_length) < lengths[:, None]
    matrix[filled] = np.array([i for form in forms for i in form[:max_length]], np.int32)
    return matrix, lengths


def whole_characters(raw: bytes) -> tuple[int, int]:
    """Begin and end of the longest part of ``raw`` that is UTF-8 text; the first of equals."""
    for cut in range(len(raw) + 1):
        for begin in range(cut + 1):
            try:
                raw[begin : len(raw) - cut + begin].decode()
            except UnicodeDecodeError:
                continue
            return begin, len(raw) - cut + begin
    raise AssertionError("no bytes are text, too")


class _ByteIds:
    def __init__(self, tok: ByteifiedTokenizer, offset: int | None) -> None:
        self.tok, self.offset = tok, offset

    def __call__(self, raw: bytes) -> list[int]:
        if self.offset is not None:
            return [self.offset + byte for byte in raw]
        try:
            return [self.tok.ids[BYTE_CHARACTERS[byte]] for byte in raw]
        except KeyError as error:
            raise TokenizerError(
                f"tokenizer '{self.tok.spec}' has no token for the single byte {error}, so it "
                "cannot spell every token; choose one with all bytes"
            ) from None
