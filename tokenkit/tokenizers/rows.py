"""What is read: texts and chats, and one tokenizer's view of them."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from tokenkit.errors import ConfigError, TokenizerError
from tokenkit.registry import did_you_mean
from tokenkit.tokenizers.chat.places import with_texts
from tokenkit.tokenizers.chat.template import Conversation
from tokenkit.tokenizers.chat.writing import Part
from tokenkit.tokenizers.tokenizer import ByteifiedTokenizer

LOSS_MODES = ("all", "assistant", "completion")
SPELT_MODES = ("text", "refuse", "parse")


@dataclass(frozen=True)
class Document:
    """A text that is no chat.

    Attributes:
        bos, eos: whether it begins with BOS (where the tokenizer's texts do) and ends with EOS.
        where: file and line, for errors.
        key: where it stands in the data, see :func:`tokenkit.data.order.row_key`; −1: unknown.
    """

    text: str
    bos: bool = True
    eos: bool = True
    where: str = field(default="", compare=False, kw_only=True)
    key: int = field(default=-1, compare=False, kw_only=True)


Row = Document | Conversation


@dataclass
class EncodedRow:
    """One tokenizer's view of a row.

    Attributes:
        data: UTF-8 of what was encoded, special tokens spelt out.
        ids: int32 ``[T]``.
        begin, end: int64 ``[T]``, the bytes of ``data`` each token stands for, from left to right;
            −1 where they are not known. A space that the tokenizer put in by itself stands for
            none.
        counted: bool ``[T]``, whether the loss counts the token's prediction: all its bytes are
            under the loss.
        parts: gives what another tokenizer's view may share, in bytes, from left to right.
        marked: whether it was written with neutral markers.
    """

    data: bytes
    ids: np.ndarray
    begin: np.ndarray
    end: np.ndarray
    counted: np.ndarray
    parts: Callable[[], list[Part]]
    marked: bool = False

    def cut(self, length: int) -> EncodedRow:
        """The first ``length`` tokens."""
        arrays = {k: getattr(self, k)[:length] for k in ("ids", "begin", "end", "counted")}
        return replace(self, **arrays)


@dataclass(frozen=True)
class Reading:
    """How rows are read.

    Attributes:
        loss_on: which tokens count: all, those of assistants, or of the last assistant's turn.
        spelt: what special tokens that are spelt out in a row are: ``text``; reason to ``refuse``
            the row; or the tokens themselves (``parse``, which knows neutral markers too).
    """

    loss_on: str = "all"
    spelt: str = "text"

    def __post_init__(self) -> None:
        for name, value, known in (
            ("loss_on", self.loss_on, LOSS_MODES),
            ("special_tokens", self.spelt, SPELT_MODES),
        ):
            if value not in known:
                raise ConfigError(
                    f"unknown {name} '{value}'{did_you_mean(value, list(known))} "
                    f"(available: {', '.join(known)})"
                )


def joint_form(*toks: ByteifiedTokenizer) -> str:
    """The Unicode form in which all of these tokenizers see a text alike, "" for any.

    Raises:
        TokenizerError: if one composes what another decomposes.
    """
    forms = sorted({tok.normal_form for tok in toks} - {""})
    if len({form[-1] for form in forms}) > 1:
        names = ", ".join(f"'{tok.spec}': {tok.normal_form}" for tok in toks if tok.normal_form)
        raise TokenizerError(
            f"tokenizers that normalise text differently see no text alike: {names}"
        )
    return max(forms, key=len, default="")


def in_form(text: str, form: str) -> str:
    """The text in a Unicode form ("" is any); the same object if it is that already."""
    if not form or unicodedata.is_normalized(form, text):  # type: ignore[arg-type]
        return text
    return unicodedata.normalize(form, text)  # type: ignore[arg-type]


def normalised(row: Row, form: str) -> Row:
    """The row with its text, or its chat's contents, in a Unicode form."""
    if not form:
        return row
    if isinstance(row, Document):
        return replace(row, text=in_form(row.text, form))
    return with_texts(row, lambda text: in_form(text, form))
