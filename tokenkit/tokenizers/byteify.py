"""Tokenizers in one byte alphabet, so that vocabularies can be compared and texts aligned."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import tokenizers
from transformers import PreTrainedTokenizerFast

from tokenkit.errors import TokenizerError
from tokenkit.tokenizers.alphabet import (
    NEWLINE,
    SPACE,
    TAB,
    byteify_sentencepiece,
    from_alphabet,
    to_alphabet,
)
from tokenkit.tokenizers.families import BOS, EOS, MARKERS, PAD, Family
from tokenkit.tokenizers.spec import TokenizerSpec

# Longest piece of text read per token of max_length; no tokenizer averages more.
MAX_CHARS_PER_TOKEN = 64


class ByteifiedTokenizer:
    """A Hugging Face fast tokenizer with a family's roles, its tokens given as bytes.

    Attributes:
        hf: the underlying tokenizer; owned, never shared between instances.
        tokens: byteified string of each id ("" for ids that no token has).
        ids: id of each byteified string; of several tokens for the same bytes, the one that
            encoding prefers (a real piece before SentencePiece's byte fallback).
    """

    def __init__(
        self,
        hf: PreTrainedTokenizerFast,
        family: Family,
        spec: TokenizerSpec,
        *,
        byte_alphabet: bool,
        add_prefix_space: bool = False,
    ) -> None:
        self.hf, self.family, self.spec = hf, family, spec
        self.add_prefix_space = add_prefix_space
        self._byte_alphabet = byte_alphabet
        self._index_tokens()
        for marker, attribute in ((PAD, "pad_token"), (BOS, "bos_token"), (EOS, "eos_token")):
            if (tokens := family.replacements[marker]) is not None:
                setattr(hf, attribute, tokens[0])
        hf.padding_side = "right"
        self._marker_ids = {
            marker: np.array([i for t in tokens or () for i in self._spell(t)], dtype=np.int32)
            for marker, tokens in family.replacements.items()
        }
        self._split = self._splitter()

    def _index_tokens(self) -> None:
        vocabulary = self.hf.get_vocab()
        added = set(self.hf.added_tokens_encoder)
        self.tokens = [""] * (max(vocabulary.values()) + 1)
        self.ids: dict[str, int] = {}
        fallback: dict[str, int] = {}
        for piece, number in sorted(vocabulary.items(), key=lambda item: item[1]):
            if self._byte_alphabet and piece not in added:
                token = piece
            elif self._byte_alphabet:
                token = to_alphabet(piece.encode("utf-8"))
            else:
                token = byteify_sentencepiece(piece)
            self.tokens[number] = token
            is_fallback = not self._byte_alphabet and re.fullmatch(r"<0x[0-9A-F]{2}>", piece)
            (fallback if is_fallback else self.ids).setdefault(token, number)
        for token, number in fallback.items():
            self.ids.setdefault(token, number)

    def _spell(self, token: str) -> list[int]:
        """Ids of a token of the family: its own, or those of its pieces ("user" in a vocabulary
        too small to have it)."""
        pieces = [self.ids[token]] if token in self.ids else self.tokenize_bytes(token)
        if not pieces:
            raise TokenizerError(
                f"tokenizer '{self.spec}': family {self.family.name} needs the token '{token}', "
                "which the vocabulary neither has nor can spell"
            )
        return pieces

    def _splitter(self) -> re.Pattern:
        """Matches markers, then added tokens in order of id: what is encoded as a whole."""
        self._added = {
            text: self.ids[self._byteify_added(text)] for text in self.hf.added_tokens_encoder
        }
        parts = [*MARKERS, *self._added]
        return re.compile("(" + "|".join(re.escape(part) for part in parts) + ")")

    def _byteify_added(self, text: str) -> str:
        if self._byte_alphabet:
            return to_alphabet(text.encode("utf-8"))
        return byteify_sentencepiece(text)

    def __len__(self) -> int:
        """Rows that a vocabulary of this tokenizer needs: its highest id + 1."""
        return len(self.tokens)

    @property
    def pad_id(self) -> int:
        return self.hf.pad_token_id

    @property
    def bos_id(self) -> int | None:
        return self.hf.bos_token_id

    @property
    def eos_id(self) -> int:
        return self.hf.eos_token_id

    @cached_property
    def special_ids(self) -> set[int]:
        """Ids of the family's special tokens."""
        return {self.ids[token] for token in self.family.special_tokens if token in self.ids}

    @cached_property
    def token_bytes(self) -> list[bytes]:
        """Bytes of each token; of special tokens, those of their name."""
        return [from_alphabet(token) for token in self.tokens]

    @cached_property
    def byte_lengths(self) -> np.ndarray:
        """Bytes of text per id, int32 ``[V]``; 0 for special tokens, which are no text."""
        lengths = np.array([len(data) for data in self.token_bytes], dtype=np.int32)
        lengths[sorted(self.special_ids)] = 0
        return lengths

    def space_mask(self, mode: str = "space+tab+newline+special") -> np.ndarray:
        """Boundary tokens, bool ``[V]``: those that begin with a space, tab or newline, and/or
        the family's special tokens, as ``mode`` says."""
        modes = set(mode.split("+"))
        unknown = modes - {"space", "tab", "newline", "special"}
        if unknown:
            raise TokenizerError(
                f"space mask mode '{mode}': unknown part '{min(unknown)}' "
                "(parts: space, tab, newline, special)"
            )
        starts = {"space": SPACE, "tab": TAB, "newline": NEWLINE}
        first = {char for name, char in starts.items() if name in modes}
        mask = np.array([token[:1] in first for token in self.tokens], dtype=bool)
        if "special" in modes:
            mask[sorted(self.special_ids)] = True
        return mask

    def marker_ids(self, marker: str) -> np.ndarray:
        """Ids that stand for a neutral marker (none: empty), int32."""
        return self._marker_ids[marker]

    def split(self, marked_text: str) -> list[str]:
        """Cut a text into markers, added tokens and the plain text between them."""
        return [part for part in self._split.split(marked_text) if part]

    def encode_segments(self, rows: Sequence[list[str]]) -> list[list[np.ndarray]]:
        """Ids of each segment of each row (as :meth:`split` gives them), int32.

        Plain text of all rows goes through the Rust encoder in one call.
        """
        plain = [
            s for row in rows for s in row if s not in self._marker_ids and s not in self._added
        ]
        if self.add_prefix_space:
            plain = [s if s.startswith(" ") else " " + s for s in plain]
        backend = self.hf.backend_tokenizer
        encoded = iter(backend.encode_batch_fast(plain, add_special_tokens=False))

        def ids(segment: str) -> np.ndarray:
            if segment in self._marker_ids:
                return self._marker_ids[segment]
            if segment in self._added:
                return np.array([self._added[segment]], dtype=np.int32)
            return np.array(next(encoded).ids, dtype=np.int32)

        return [[ids(segment) for segment in row] for row in rows]

    def encode_batch(
        self, marked_texts: Sequence[str], max_length: int | None = None
    ) -> list[np.ndarray]:
        """Ids of each text, int32, at most ``max_length``; neutral markers become the family's."""
        if max_length is not None:
            marked_texts = [text[: MAX_CHARS_PER_TOKEN * max_length] for text in marked_texts]
        rows = self.encode_segments([self.split(text) for text in marked_texts])
        empty = np.zeros(0, dtype=np.int32)
        return [np.concatenate([empty, *row])[:max_length] for row in rows]

    def encode(self, marked_text: str, max_length: int | None = None) -> np.ndarray:
        """Ids of one text; see :meth:`encode_batch`."""
        return self.encode_batch([marked_text], max_length)[0]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, special tokens by name; bytes that are no UTF-8 become U+FFFD."""
        data = b"".join([self.token_bytes[int(number)] for number in ids])
        return data.decode("utf-8", errors="replace")

    def tokenize_bytes(self, token: str) -> list[int]:
        """Ids of a byteified string as if it stood alone; [] if its bytes are no UTF-8 text.

        The string's number of leading spaces is kept, whatever prefix the tokenizer adds.
        """
        try:
            text = from_alphabet(token).decode("utf-8")
        except UnicodeDecodeError:
            return []
        spaces = len(text) - len(text.lstrip(" "))
        backend = self.hf.backend_tokenizer
        if backend.normalizer is not None:
            text = backend.normalizer.normalize_str(text)
        text = _fit_prefix(_fit_prefix(text, "▁", spaces), " ", spaces)
        if backend.pre_tokenizer is not None:
            text = "".join(piece for piece, _ in backend.pre_tokenizer.pre_tokenize_str(text))
        text = _fit_prefix(text, SPACE, spaces)
        return [t.id for t in backend.model.tokenize(text)] if text else []

    def save(self, folder: str | Path) -> None:
        """Write a folder that plain ``AutoTokenizer`` loads and that encodes to the same ids.

        It prepends BOS if the family has one, and its chat template renders
        :func:`~tokenkit.tokenizers.chat.messages_to_markers`.
        """
        from tokenkit.tokenizers.chat import chat_template

        hf = copy.deepcopy(self.hf)
        bos = self.family.replacements[BOS]
        if bos is not None:
            hf.backend_tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
                single=f"{bos[0]} $A",
                pair=f"{bos[0]} $A {bos[0]} $B",
                special_tokens=[(bos[0], self.bos_id)],
            )
        else:
            plain = tokenizers.processors.ByteLevel(trim_offsets=False)
            hf.backend_tokenizer.post_processor = plain
        if self.family.has_headers:
            hf.chat_template = chat_template(self.family)
        hf.save_pretrained(folder)


def _fit_prefix(text: str, symbol: str, count: int) -> str:
    """If ``text`` begins with ``symbol`` at all, make it begin with exactly ``count`` of them."""
    bare = text.lstrip(symbol)
    return text if len(bare) == len(text) else symbol * count + bare
