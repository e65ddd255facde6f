"""``tk.align``: one row or several, specs or tokenizers."""

from __future__ import annotations

import numpy as np
import pytest

import tokenkit as tk
from tests.launch import SPEC_A, SPEC_B
from tokenkit.errors import TokenizerError

CHAT = [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "It is 4."}]


def by_chunk(side):
    """Chunk → its bytes."""
    found: dict[int, bytes] = {}
    for (begin, end), chunk in zip(side.byte_ranges.tolist(), side.chunks.tolist(), strict=True):
        if chunk >= 0:
            found[chunk] = found.get(chunk, b"") + side.data[begin:end]
    return found


@pytest.mark.parametrize("kind", ["unconstrained", "space"])
def test_equal_chunks_have_equal_bytes(kind):
    pair = tk.align("Tokenizers differ, bytes do not: naïve café.", SPEC_A, SPEC_B, kind)
    chunks = [by_chunk(side) for side in (pair.teacher, pair.student)]
    assert chunks[0] == chunks[1] and len(chunks[0]) > 5


def test_kinds_differ_and_space_chunks_end_before_words():
    pair = tk.align("three short words", SPEC_A, SPEC_B, "space")
    words = list(by_chunk(pair.teacher).values())
    assert all(word.startswith((b" ", b"<|")) for word in words[2:])


def test_what_a_pair_shows_is_a_line():
    pair = tk.align("word " * 500, SPEC_A, SPEC_B)
    size, chunks = len(pair.teacher.data), len(by_chunk(pair.teacher))
    side = f"AlignedSide({len(pair.teacher.ids)} tokens of {size} bytes)"
    assert repr(pair.teacher) == side
    assert repr(pair).startswith(f"AlignedPair(teacher={side}, student=AlignedSide(")
    assert repr(pair).endswith(f", {chunks} chunks)") and len(repr(pair)) < 200


def test_several_rows_and_a_chat():
    texts = tk.align(["One.", "Two."], SPEC_A, SPEC_B)
    assert [pair.teacher.data.decode().count("One.") for pair in texts] == [1, 0]
    chat = tk.align(CHAT, SPEC_A, SPEC_B, loss_on="assistant")
    counted = chat.teacher.byte_ranges[chat.teacher.loss_mask]
    assert b"It is 4." in chat.teacher.data[counted.min() : counted.max()]
    both = tk.align(["One.", CHAT], SPEC_A, SPEC_B, loss_on="assistant")
    assert np.array_equal(both[1].student.chunks, chat.student.chunks)
    assert tk.align([], SPEC_A, SPEC_B) == []


def test_what_is_no_tokenizer_is_named():
    with pytest.raises(TokenizerError, match="^b is a int: give a spec"):
        tk.align("x", SPEC_A, 3)
    with pytest.raises(TokenizerError, match="unknown alignment 'words'"):
        tk.align("x", SPEC_A, SPEC_B, "words")
    with pytest.raises(TokenizerError, match="needs pair statistics"):
        tk.align("x", SPEC_A, SPEC_B, "unbiased")
