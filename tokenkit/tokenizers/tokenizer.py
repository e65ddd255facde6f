"""A tokenizer seen through its bytes: the one interface the rest of tokenkit uses."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from tokenkit.errors import TokenizerError
from tokenkit.log import warn_once
from tokenkit.registry import did_you_mean
from tokenkit.tokenizers.alphabet import NEWLINE, SPACE, TAB, literal_bytes
from tokenkit.tokenizers.arrays import as_array
from tokenkit.tokenizers.byteify import (
    BYTE_PIECES,
    ByteKind,
    byteify_added_token,
    byteify_token,
    native_token,
)
from tokenkit.tokenizers.families import BOS, EOS, MARKERS, PAD, Family
from tokenkit.tokenizers.guard import Guard, well_formed
from tokenkit.tokenizers.spec import TokenizerSpec

if TYPE_CHECKING:
    from tokenkit.tokenizers.chat.template import ChatTemplate

SPACE_MASK_MODES = ("space", "tab", "newline", "special")


class ByteifiedTokenizer:
    """A fast Hugging Face tokenizer, its family, and its tokens as bytes.

    Attributes:
        hf: the tokenizer with the family's special tokens added.
        spec: what it was loaded from.
        family: the target family.
        kind: how it writes bytes.
        adds_prefix_space: whether encoding puts a space before every piece of text.
        chat: the template that chats are written by; None if there is none.
        text_bos: the token that texts begin with, "" if none.
        normal_form: Unicode form that the tokenizer brings text into, "" if none.
        control_tokens: special tokens that texts and chats are written with.
        tokens: byteified string per id; special tokens verbatim, "" for ids without a token.
        ids: id per byteified string; a real piece wins over the byte-fallback piece.
        byte_lengths: int32 ``[V]``, bytes per id, 0 for the family's special tokens.
        special_ids: ids of the family's special tokens.
        marker_ids: ids each neutral marker becomes; None where the family has no such token.
        pad_id, bos_id, eos_id: ``bos_id`` is None if neither family nor tokenizer has one.
    """

    def __init__(
        self,
        hf: PreTrainedTokenizerFast,
        spec: TokenizerSpec,
        family: Family,
        kind: ByteKind,
        *,
        adds_prefix_space: bool = False,
        chat: ChatTemplate | None = None,
        text_bos: str = "",
        normal_form: str = "",
        control_tokens: Sequence[str] = (),
    ) -> None:
        """Wrap ``hf``, which must have the family's special tokens already.

        Raises:
            TokenizerError: if a token of the family cannot be written with this vocabulary.
        """
        self.hf = hf
        self.spec = spec
        self.family = family
        self.kind = kind
        self.adds_prefix_space = adds_prefix_space
        self.chat, self.text_bos, self.normal_form = chat, text_bos, normal_form
        self.control_tokens = tuple(control_tokens)
        self._read_vocabulary()
        spelt: dict[str, int] = {}
        self.marker_ids = {marker: self._marker_ids(marker, spelt) for marker in MARKERS}
        if spelt:
            words = ", ".join(f"{token!r} ({pieces})" for token, pieces in spelt.items())
            said = f"tokenizer '{spec}' has no single token for {words}"
            warn_once(f"{said}: chats of family {family.name} spell them with so many each")
        self._set_special_ids()
        self.layout: Any = None  # what alignment knows of the vocabulary, made when first needed
        self.writer: Any = None  # of chats, made when first needed

    # Vocabulary -------------------------------------------------------------------------------

    def _read_vocabulary(self) -> None:
        vocabulary = self.hf.get_vocab()
        self._added = {t.content: i for i, t in sorted(self.hf.added_tokens_decoder.items())}
        self._special = {t.content: i for i, t in self.hf.added_tokens_decoder.items() if t.special}
        self.tokens = [""] * (max(vocabulary.values(), default=-1) + 1)
        self.ids: dict[str, int] = {}
        weak = set()  # byteified strings that only a byte-fallback piece stands for so far
        for native, i in sorted(vocabulary.items(), key=lambda item: item[1]):
            if native in self._added:
                token = byteify_added_token(native, native in self._special, self.kind)
            else:
                token = byteify_token(native, self.kind)
            self.tokens[i] = token
            is_byte_piece = self.kind == "sentencepiece" and native in BYTE_PIECES
            if token not in self.ids or (token in weak and not is_byte_piece):
                self.ids[token] = i
                weak.discard(token)
                if is_byte_piece:
                    weak.add(token)

    def _marker_ids(self, marker: str, spelt: dict[str, int]) -> np.ndarray | None:
        """Ids of a marker; a plain word that is no token is spelt out, and noted in ``spelt``."""
        replacement = self.family.replacements[marker]
        if replacement is None:
            return None
        ids = []
        for token in replacement:
            pieces = [self.ids[token]] if token in self.ids else self.tokenize_bytes(token)
            if not pieces:
                raise TokenizerError(
                    f"tokenizer '{self.spec}' cannot write '{token}', which family "
                    f"{self.family.name} uses for {marker}"
                )
            if len(pieces) > 1:
                spelt[literal_bytes(token).decode(errors="replace")] = len(pieces)
            ids.extend(pieces)
        return np.array(ids, np.int32)

    def _set_special_ids(self) -> None:
        present = [token for token in self.family.special_tokens if token in self.ids]
        self.special_ids = {self.ids[token] for token in present}
        self.byte_lengths = np.array([len(raw) for raw in self.token_bytes], np.int32)
        self.byte_lengths[list(self.special_ids)] = 0
        for marker, name in ((PAD, "pad_token"), (BOS, "bos_token"), (EOS, "eos_token")):
            replacement = self.family.replacements[marker]
            if replacement is not None:
                setattr(self.hf, name, replacement[0])
        self._name_tokens_of_template()
        self.hf.padding_side = "right"
        self.pad_id: int = self.ids[self.family.replacements[PAD][0]]
        self.eos_id: int = self.ids[self.family.replacements[EOS][0]]
        self.bos_id: int | None = self.hf.bos_token_id

    def _name_tokens_of_template(self) -> None:
        """Tokens that the template speaks of by name keep their names."""
        if self.chat is None:
            return
        text = " ".join(self.chat.texts.values())
        for name in ("bos_token", "eos_token", "pad_token", "unk_token"):
            if name in self.chat.tokens and re.search(rf"\b{name}\b", text):
                setattr(self.hf, name, self.chat.tokens[name])

    @cached_property
    def token_bytes(self) -> list[bytes]:
        """Bytes of every token as they stand in text; special tokens spelt literally."""
        raw = [literal_bytes(token) for token in self.tokens]
        # Special tokens stand verbatim, also those that the alphabet could write ("<début>").
        for token, i in self._special.items():
            raw[i] = token.encode()
        return raw

    def __len__(self) -> int:
        """Rows a vocabulary needs: the highest id + 1."""
        return len(self.tokens)

    def __repr__(self) -> str:
        return f"ByteifiedTokenizer('{self.spec}', family={self.family.name}, size={len(self)})"

    def space_mask(self, mode: str = "+".join(SPACE_MASK_MODES)) -> np.ndarray:
        """Tokens that begin a new word.

        Args:
            mode: some of space, tab, newline, special, joined by "+".

        Returns:
            bool ``[V]``.

        Raises:
            TokenizerError: if the mode has an unknown part.
        """
        parts = mode.split("+")
        for part in parts:
            if part not in SPACE_MASK_MODES:
                raise TokenizerError(
                    f"unknown part '{part}' of space mask mode '{mode}'"
                    f"{did_you_mean(part, list(SPACE_MASK_MODES))} "
                    f"(available: {', '.join(SPACE_MASK_MODES)})"
                )
        characters = {"space": SPACE, "tab": TAB, "newline": NEWLINE}
        first = tuple(characters[part] for part in parts if part in characters)
        mask = np.array([bool(first) and token.startswith(first) for token in self.tokens], bool)
        if "special" in parts:
            mask[list(self.special_ids)] = True
        return mask

    # Text to ids ------------------------------------------------------------------------------

    def encode_text(self, text: str) -> list[int]:
        """Ids of a text, as its own ``tokenizer.json`` gives them; no special token is added."""
        return self.encode_texts([text])[0].tolist()

    def encode_chat(self, messages: Sequence[Mapping[str, Any]], **options: Any) -> list[int]:
        """Ids of a chat as the tokenizer's own template writes it.

        Equal to ``apply_chat_template(messages, tokenize=True)`` of ``transformers``, but special
        tokens that contents spell out are text.

        Args:
            options: ``tools``, ``add_generation_prompt`` and variables of the template.

        Raises:
            DataError: if the template refuses the chat.
            TokenizerError: if the tokenizer has no template.
        """
        from tokenkit.tokenizers.encode import chat_ids

        return chat_ids(self, messages, **options)

    def encode_texts(self, texts: Sequence[str], as_text: bool = False) -> list[np.ndarray]:
        """Ids of texts, int32 ``[T]`` each, encoded in one call.

        Args:
            as_text: special tokens that are spelt out are ordinary text; see :attr:`guard`.
        """
        if as_text:
            return self.guard.encode(texts)
        backend = self.hf.backend_tokenizer
        texts = [well_formed(text) for text in texts]
        encodings = backend.encode_batch_fast(texts, add_special_tokens=False)
        return [as_array(encoding.ids) for encoding in encodings]

    @cached_property
    def guard(self) -> Guard:
        """The tokenizer for texts that nobody may put special tokens into."""
        return Guard(self.hf.backend_tokenizer)

    @cached_property
    def spelt_special(self) -> re.Pattern[str] | None:
        """Matches special tokens spelt out in text; None if there are none."""
        names = [t.content for t in self.hf.added_tokens_decoder.values() if t.special]
        names = sorted(filter(None, names), key=len, reverse=True)
        return re.compile("|".join(map(re.escape, names))) if names else None

    @cached_property
    def _splitter(self) -> re.Pattern[str]:
        return re.compile(f"({'|'.join(map(re.escape, MARKERS))})")

    def split(self, marked_text: str) -> list[str]:
        """Cut a marked text at neutral markers: text, marker, text, …, text."""
        return self._splitter.split(marked_text)

    def encode(self, marked_text: str) -> np.ndarray:
        """Ids of a text with neutral markers, int32 ``[T]``, as in the reference."""
        parts = self.split(marked_text)
        found = [self._marker_tokens(marker) for marker in parts[1::2]]
        texts = self.encode_texts(parts[::2])
        return np.concatenate([*chain.from_iterable(zip(texts, found, strict=False)), texts[-1]])

    def _marker_tokens(self, marker: str) -> np.ndarray:
        ids = self.marker_ids[marker]
        return np.zeros(0, np.int32) if ids is None else ids

    # Ids to text, bytes to ids ----------------------------------------------------------------

    def decode(self, ids: Iterable[int]) -> str:
        """Text of ids; special tokens are spelt out, incomplete UTF-8 becomes "�".

        A tokenizer that puts a space before every piece of text has it taken away again.
        """
        literal_ids = set(self._added.values()) | self.special_ids
        raw = bytearray()
        starts_piece = True
        for i in map(int, ids):
            token = self.token_bytes[i]
            if i in literal_ids:
                starts_piece = True
            elif starts_piece:
                token = token.removeprefix(b" ") if self.adds_prefix_space else token
                starts_piece = False
            raw += token
        return raw.decode("utf-8", errors="replace")

    @cached_property
    def _bare(self) -> Tokenizer:
        """The model alone, without normaliser, pre-tokeniser and added tokens."""
        return Tokenizer(self.hf.backend_tokenizer.model)

    def tokenize_bytes(self, token: str) -> list[int]:
        """Ids that spell a byteified string; [] if it is empty or not valid UTF-8."""
        return self.tokenize_bytes_batch([token])[0]

    def tokenize_bytes_batch(self, tokens: Sequence[str]) -> list[list[int]]:
        """Like :meth:`tokenize_bytes` for many strings in one call.

        Each string is given to the tokenizer's model as a whole. Strings that are not valid
        UTF-8 give [] for byte-level tokenizers, too, as in the reference.
        """
        natives = []
        for token in tokens:
            raw = literal_bytes(token)
            try:
                raw.decode()
            except UnicodeDecodeError:
                raw = b""
            natives.append(native_token(raw, self.kind) or "")
        encodings = self._bare.encode_batch_fast(natives, add_special_tokens=False)
        return [[self.ids[self.tokens[i]] for i in encoding.ids] for encoding in encodings]

    def save(self, folder: str | Path) -> None:
        """Write a plain Hugging Face tokenizer folder; see :func:`save_tokenizer`."""
        from tokenkit.tokenizers.save import save_tokenizer

        save_tokenizer(self, Path(folder))
