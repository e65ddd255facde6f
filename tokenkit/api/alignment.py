"""Tokenizers and alignment for users of the library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tokenkit.errors import TokenizerError
from tokenkit.tokenizers import (
    AlignedPair,
    ByteifiedTokenizer,
    Conversation,
    Document,
    Row,
    align_pair,
    load_pair_bias,
    load_tokenizer,
)

__all__ = ["align", "as_tokenizer", "load_tokenizer"]

Messages = Sequence[Mapping[str, Any]]


def as_tokenizer(given: str | ByteifiedTokenizer, name: str) -> ByteifiedTokenizer:
    """A tokenizer, loaded if it is a spec.

    Args:
        name: of the argument, for the error.

    Raises:
        TokenizerError: if it is neither.
    """
    if isinstance(given, ByteifiedTokenizer):
        return given
    if isinstance(given, str):
        return load_tokenizer(given)
    raise TokenizerError(
        f"{name} is a {type(given).__name__}: give a spec (a folder or hub id) or what "
        "tk.load_tokenizer returns"
    )


def align(
    text_or_rows: str | Row | Messages | Sequence[str | Row | Messages],
    a: str | ByteifiedTokenizer,
    b: str | ByteifiedTokenizer,
    kind: str = "unconstrained",
    *,
    loss_on: str = "all",
    special_tokens: str = "text",
    pair_bias: str = "",
    bias_threshold: float = 0.1,
) -> Any:
    """Which tokens of two tokenizers stand for the same bytes.

    Tokens are encoded as in training: a text begins with BOS where the tokenizer's texts do, and
    ends with EOS. Chunk k of one side covers the same bytes as chunk k of the other.

    Args:
        text_or_rows: a text, a chat's messages (``[{"role": …, "content": …}, …]``), or a list of
            texts and chats.
        a: the teacher's tokenizer, a spec or a loaded one.
        b: the student's.
        kind: ``unconstrained`` (the smallest chunks), ``space`` (they end before words) or
            ``unbiased`` (they end where neither tokenizer is biased; needs ``pair_bias``).
        loss_on: tokens that count: ``all``, ``assistant`` or ``completion``.
        special_tokens: what special tokens spelt out in a text are: ``text``, ``refuse`` or
            ``parse``.
        pair_bias: folder or file that ``tokenkit compute-tokenizer-info`` wrote.
        bias_threshold: the highest bias at which an ``unbiased`` chunk may end.

    Returns:
        A pair with the fields ``teacher`` and ``student``, each with ``ids`` int32 ``[T]``,
        ``chunks`` int32 ``[T]`` (-1: in no chunk), ``loss_mask`` bool ``[T]``, ``byte_ranges``
        int64 ``[T, 2]`` and ``data`` (the bytes); for a list of rows, a list of pairs.

    Raises:
        TokenizerError: if a tokenizer cannot be loaded, the kind is unknown, or a chat is given to
            a tokenizer without a template.
        DataError: if a row cannot be written or read.
        ConfigError: if ``loss_on`` or ``special_tokens`` is unknown.

    Examples:
        >>> import tokenkit as tk
        >>> teacher, student = tk.load_tokenizer(FOLDER_A), tk.load_tokenizer(FOLDER_B)
        >>> pair = tk.align("Hello, tokenizers!", teacher, student)
        >>> for side in (pair.teacher, pair.student):  # equal numbers, equal bytes
        ...     tokens = [side.data[begin:end].decode() for begin, end in side.byte_ranges]
        ...     print(list(zip(tokens[5:-2], side.chunks[5:-2].tolist())))
        [(' to', 5), ('ken', 6), ('iz', 7), ('ers', 8)]
        [(' to', 5), ('ke', 6), ('n', 6), ('i', 7), ('z', 7), ('er', 8), ('s', 8)]
    """
    teacher, student = as_tokenizer(a, "a"), as_tokenizer(b, "b")
    options: dict[str, Any] = {"kind": kind, "special_tokens": special_tokens}
    if pair_bias:
        options["pair_bias"] = load_pair_bias(pair_bias)
        options["bias_threshold"] = bias_threshold

    def one(row: Any) -> AlignedPair:
        return align_pair(teacher, student, row, loss_on, **options)

    if isinstance(text_or_rows, str | Document | Conversation):
        return one(text_or_rows)
    rows = list(text_or_rows)
    if rows and isinstance(rows[0], Mapping):  # messages: one chat
        return one(rows)
    return [one(row) for row in rows]
