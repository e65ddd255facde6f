"""Alignment: what must hold for any text and any two tokenizers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tokenizers.specs import SPECS, tokenizer
from tokenkit.tokenizers import align, messages_to_markers
from tokenkit.tokenizers.symbols import add_leading_spaces, build_side
from tokenkit.tokenizers.walk import walk_row

PAIRS = [(a, b) for a in SPECS for b in SPECS if a < b]


def padded(rows):
    length = max(map(len, rows)) + 2
    ids = np.zeros((len(rows), length), dtype=np.int64)
    mask = np.zeros((len(rows), length), dtype=bool)
    for number, row in enumerate(rows):
        ids[number, : len(row)], mask[number, : len(row)] = row, True
    return ids, mask


def align_texts(teacher, student, texts, kinds=("unconstrained", "space"), **options):
    t_ids, t_mask = padded([teacher.encode(text) for text in texts])
    s_ids, s_mask = padded([student.encode(text) for text in texts])
    found = align(teacher, student, t_ids, s_ids, t_mask, s_mask, kinds, **options)
    return (t_ids, t_mask), (s_ids, s_mask), found


def chunk_bytes(tok, ids, chunks):
    count = chunks.max() + 1
    return [b"".join(tok.token_bytes[i] for i in ids[chunks == c]) for c in range(count)]


@settings(max_examples=60, deadline=None)
@given(
    pair=st.sampled_from(PAIRS),
    texts=st.lists(st.text(min_size=1, max_size=50), min_size=1, max_size=3),
)
def test_chunks_cover_both_sides_with_equal_bytes(pair, texts):
    teacher, student = map(tokenizer, pair)
    texts = [text for text in texts if "<" not in text] or ["x"]
    (t_ids, t_mask), (s_ids, s_mask), found = align_texts(teacher, student, texts)
    assert found.stats["mismatched_rows"] == 0
    for kind in ("unconstrained", "space"):
        t_chunks, s_chunks = found.teacher_chunks[kind], found.student_chunks[kind]
        for row in range(len(texts)):
            for chunks, mask in ((t_chunks[row], t_mask[row]), (s_chunks[row], s_mask[row])):
                assert (chunks[mask] >= 0).all() and (chunks[~mask] == -1).all()
                steps = np.diff(chunks[mask], prepend=-1)
                assert ((steps == 0) | (steps == 1)).all() and steps[:1] == 1
            assert chunk_bytes(teacher, t_ids[row], t_chunks[row]) == chunk_bytes(
                student, s_ids[row], s_chunks[row]
            )


@settings(max_examples=60, deadline=None)
@given(
    pair=st.sampled_from(PAIRS),
    pieces=st.lists(
        st.sampled_from(
            ["a b", " user", "\n", "\n\n", "model", "<bos>", "<|im_start|>", "日本", "  "]
        ),
        max_size=6,
    ),
)
def test_streams_equal_the_walk(pair, pieces):
    """The vectorised path and the token-by-token path agree wherever texts agree."""
    teacher, student = map(tokenizer, pair)
    chat = [{"role": "user", "content": "".join(pieces)}, {"role": "assistant", "content": "ok"}]
    texts = ["x" + "".join(pieces), messages_to_markers(chat)]
    (t_ids, t_mask), (s_ids, s_mask), found = align_texts(teacher, student, texts)
    t = build_side(teacher, student, t_ids, t_mask)
    s = build_side(student, teacher, s_ids, s_mask)
    add_leading_spaces(t, s)
    for row in range(len(texts)):
        of_teacher, of_student, _ = walk_row(t, s, row)
        assert (
            found.teacher_chunks["unconstrained"][row][t_mask[row]].tolist() == of_teacher.tolist()
        )
        assert (
            found.student_chunks["unconstrained"][row][s_mask[row]].tolist() == of_student.tolist()
        )


def test_bos_and_leading_space_on_one_side_only():
    teacher, student = tokenizer("bpe_a:source=Llama3"), tokenizer("bpe_b:source=Qwen2")
    t_ids, t_mask = padded([teacher.encode("<|<bos>|>Hello there")])
    s_ids, s_mask = padded([student.encode(" Hello there")])
    found = align(teacher, student, t_ids, s_ids, t_mask, s_mask)
    chunks = found.teacher_chunks["unconstrained"][0][t_mask[0]]
    assert chunks[0] == -1 and (chunks[1:] >= 0).all()
    assert (found.student_chunks["unconstrained"][0][s_mask[0]] >= 0).all()
    assert found.stats["mismatched_rows"] == 0


def test_different_texts_are_counted_and_not_aligned():
    teacher, student = tokenizer("bpe_a:source=Llama3"), tokenizer("bpe_b:source=Qwen2")
    t_ids, t_mask = padded([teacher.encode("same begin, left end"), teacher.encode("same")])
    s_ids, s_mask = padded([student.encode("same begin, right end"), student.encode("same")])
    found = align(teacher, student, t_ids, s_ids, t_mask, s_mask)
    assert found.stats["mismatched_rows"] == 1
    chunks = found.teacher_chunks["unconstrained"][0]
    aligned = b"".join(teacher.token_bytes[i] for i in t_ids[0][chunks >= 0])
    assert b"same begin,".startswith(aligned.rstrip()) and aligned
    assert found.stats["teacher_aligned"] < found.stats["teacher_tokens"]


def test_truncated_side_aligns_up_to_its_end():
    teacher, student = (
        tokenizer("bpe_a:source=Llama3"),
        tokenizer("bpe_a:source=Llama3:conversion=byte"),
    )
    text = "a rather long piece of text to be cut"
    t_ids, t_mask = padded([teacher.encode(text)])
    s_ids, s_mask = padded([student.encode(text)[:10]])
    found = align(teacher, student, t_ids, s_ids, t_mask, s_mask)
    assert found.stats["mismatched_rows"] == 0
    assert (
        found.teacher_chunks["unconstrained"].max() == found.student_chunks["unconstrained"].max()
    )


def test_empty_rows():
    teacher, student = tokenizer("bpe_a:source=Llama3"), tokenizer("bpe_b:source=Qwen2")
    empty = np.zeros((2, 4), dtype=np.int64)
    none = np.zeros((2, 4), dtype=bool)
    found = align(teacher, student, empty, empty, none, none, ("unconstrained", "space"))
    assert (found.teacher_chunks["space"] == -1).all()


@pytest.mark.parametrize("threshold", [0.0, 0.5])
def test_unbiased_chunks_end_at_unbiased_pairs(threshold):
    from scipy import sparse

    teacher, student = tokenizer("bpe_a:source=Llama3"), tokenizer("bpe_b:source=Qwen2")
    generator = np.random.default_rng(0)
    shape = (len(teacher), len(student))
    bias = sparse.csr_array(sparse.random_array(shape, density=0.5, rng=generator))
    text = "The quick brown fox jumps over the lazy dog 123 times"
    (t_ids, t_mask), (s_ids, _), found = align_texts(
        teacher, student, [text], ("unconstrained", "unbiased"),
        pair_bias=(bias, bias), bias_threshold=threshold,
    )  # fmt: skip
    fine, coarse = found.teacher_chunks["unconstrained"][0], found.teacher_chunks["unbiased"][0]
    of_student = found.student_chunks["unconstrained"][0]
    expected, current = {}, 0
    for chunk in range(fine.max() + 1):
        expected[chunk] = current
        t = t_ids[0][np.flatnonzero(fine == chunk)[-1]]
        s = s_ids[0][np.flatnonzero(of_student == chunk)[-1]]
        current += bias[t, s] <= threshold
    assert [expected[c] for c in fine[t_mask[0]]] == coarse[t_mask[0]].tolist()
