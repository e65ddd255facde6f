"""Alignment: against a slow walk, for any text and pair; one-sided tokens; cuts; sizes."""

from __future__ import annotations

import tracemalloc
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from tests.tokenizers.samples import NAMES
from tests.tokenizers.test_encode import TEXT
from tests.tokenizers.walk import chunk_ids
from tokenkit.errors import TokenizerError
from tokenkit.tokenizers import (
    ByteifiedTokenizer,
    PairBias,
    align,
    apply_chat_mode,
    load_pair_bias,
    messages_to_markers,
)

KINDS = ("unconstrained", "space")
CONTENT = TEXT.map(lambda text: text.replace("▁", "_"))  # SentencePiece reads it as a space


def marked(content: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Chats, whole documents and bare texts of this content."""
    roles = st.sampled_from(["system", "user", "assistant"])
    message = st.fixed_dictionaries({"role": roles, "content": content})
    return st.one_of(
        st.lists(message, max_size=4).map(messages_to_markers),
        content.map(lambda text: apply_chat_mode(text, "direct_encode")),
        content,
    )


MARKED = marked(CONTENT)
PAIRS = [
    ("llama3", "qwen2"),
    ("gemma2", "qwen3"),
    ("qwen2", "gemma2"),
    ("bytes", "llama3_of_b"),
    ("tiny_llama", "mistral"),
    ("gpt2", "tiny_llama"),
    ("llama3", "phi3_spm"),
    ("phi3", "gemma_bytes"),
    ("metaspace", "llama3"),
    ("llama3", "gpt2"),
    ("spaced", "qwen2"),
]


def pad(rows: list[list[int]], width: int, fill: int = 0) -> tuple[np.ndarray, np.ndarray]:
    ids, mask = np.full((len(rows), width), fill), np.zeros((len(rows), width), bool)
    for i, row in enumerate(rows):
        ids[i, : len(row)], mask[i, : len(row)] = row, True
    return ids, mask


def align_rows(t: ByteifiedTokenizer, s: ByteifiedTokenizer, t_rows: list, s_rows: list, **options):
    sides = [pad(rows, max(map(len, rows), default=0) + 2) for rows in (t_rows, s_rows)]
    (t_ids, t_mask), (s_ids, s_mask) = sides
    return align(t, s, t_ids, s_ids, t_mask, s_mask, **({"kinds": KINDS} | options))


def assert_equals_walk(t, s, t_rows: list, s_rows: list) -> None:
    found = align_rows(t, s, t_rows, s_rows)
    mismatched = 0
    for i, (t_ids, s_ids) in enumerate(zip(t_rows, s_rows, strict=True)):
        for kind in KINDS:
            *expected, differs = chunk_ids(t, s, t_ids, s_ids, space=kind == "space")
            for chunks, wanted in zip(
                (found.teacher_chunks[kind][i], found.student_chunks[kind][i]),
                expected,
                strict=True,
            ):
                assert chunks.dtype == np.int32
                assert chunks[: len(wanted)].tolist() == wanted, kind
                assert (chunks[len(wanted) :] == -1).all()
        mismatched += differs
    assert found.stats["mismatched_rows"] == mismatched


@pytest.mark.parametrize(("teacher", "student"), PAIRS)
@settings(max_examples=20, deadline=None)
@given(texts=st.lists(MARKED, min_size=1, max_size=4), cut=st.integers(1, 80))
def test_equals_slow_walk(tok, teacher: str, student: str, texts: list[str], cut: int) -> None:
    t, s = tok(teacher), tok(student)
    t_rows, s_rows = ([ids.tolist() for ids in x.encode_batch(texts)] for x in (t, s))
    assert_equals_walk(t, s, t_rows, s_rows)
    assert_equals_walk(t, s, [row[:cut] for row in t_rows], [row[: cut + 3] for row in s_rows])


@pytest.mark.parametrize(("teacher", "student"), PAIRS)
@settings(max_examples=15, deadline=None)
@given(
    parts=st.lists(
        st.sampled_from(
            ["<|im_start|>", "<|im_end|>", "<bos>", "<eos>", "<|eot_id|>", "</s>", "<|endoftext|>",
             "<|start_header_id|>", "<|end_header_id|>", "user", "\n", "\n\n", " it", "x", " "]
        ),
        max_size=8,
    )
)  # fmt: skip
def test_special_tokens_spelt_in_text_equal_slow_walk(tok, teacher, student, parts) -> None:
    """Special on one side only, or on both; the texts may differ or not."""
    t, s = tok(teacher), tok(student)
    text = "".join(parts)
    for marked in (text, apply_chat_mode(text, "surround_instruct")):
        assert_equals_walk(t, s, [t.encode(marked).tolist()], [s.encode(marked).tolist()])


@pytest.mark.parametrize("teacher", NAMES)
@settings(max_examples=10, deadline=None)
@given(text=marked(CONTENT.map(lambda text: text.replace("<", "("))), other=st.sampled_from(NAMES))
def test_chunks_cover_and_agree(tok, teacher: str, text: str, other: str) -> None:
    """Any text, any pair: chunks are in order, cover everything, and have equal bytes.

    But for the names of special tokens in the text, see the test above.
    """
    t, s = tok(teacher), tok(other)
    t_ids, s_ids = t.encode(text), s.encode(text)
    found = align_rows(t, s, [t_ids.tolist()], [s_ids.tolist()])
    assert found.stats["mismatched_rows"] == 0
    for kind in KINDS:
        t_chunks = found.teacher_chunks[kind][0, : len(t_ids)]
        s_chunks = found.student_chunks[kind][0, : len(s_ids)]
        count = int(t_chunks.max(initial=-1)) + 1
        for tok_, ids, chunks in ((t, t_ids, t_chunks), (s, s_ids, s_chunks)):
            inside = chunks[chunks >= 0]
            assert (np.diff(inside) >= 0).all() and set(inside) == set(range(count))
            # Only markers that the other side lacks are left out.
            assert set(ids[chunks < 0]) <= {i for m in tok_.marker_ids.values() if m is not None
                                            for i in m}  # fmt: skip
        for number in range(count):
            raw = [
                b"".join(tok_.token_bytes[i] for i in ids[chunks == number])
                for tok_, ids, chunks in ((t, t_ids, t_chunks), (s, s_ids, s_chunks))
            ]
            markers = any(
                set(ids[chunks == number].tolist()) & tok_.special_ids
                for tok_, ids, chunks in ((t, t_ids, t_chunks), (s, s_ids, s_chunks))
            )
            header = {r.strip() for r in raw} <= {b"user", b"model", b"assistant", b"system", b""}
            assert markers or header or raw[0].lstrip(b" ") == raw[1].lstrip(b" ")


def test_one_tokenizer_aligns_with_itself(tok) -> None:
    t = tok("llama3")
    ids = t.encode(messages_to_markers([{"role": "user", "content": "日本 a b"}])).tolist()
    found = align_rows(t, t, [ids], [ids])
    chunks = found.teacher_chunks["unconstrained"][0, : len(ids)].tolist()
    # "<|end_header_id|>ĊĊ" is one marker of two tokens, everything else a chunk of its own
    assert chunks == [0, 1, 2, 3, 3, *range(4, len(ids) - 1)]
    assert found.stats["teacher_aligned"] == found.stats["student_tokens"] == len(ids)


def test_character_split_across_tokens(tok) -> None:
    t, s = tok("bytes"), tok("gemma2")
    found = align_rows(t, s, [t.encode("aé日b").tolist()], [s.encode("aé日b").tolist()])
    assert found.stats["teacher_aligned"] == 7 and found.stats["mismatched_rows"] == 0


@pytest.mark.parametrize("text", ["Hello there", "  two spaces", "\n x", " ", ""])
@pytest.mark.parametrize("bos", ["teacher", "student", "both", "none"])
@pytest.mark.parametrize(("teacher", "student"), [("llama3", "gemma2"), ("tiny_llama", "llama3")])
def test_one_sided_bos_and_leading_space(tok, teacher, student, bos: str, text: str) -> None:
    """The reference loses the row if BOS and the space before the text are on one side only."""
    t, s = tok(teacher), tok(student)
    t_ids = t.encode(("<|<bos>|>" if bos in ("teacher", "both") else "") + text).tolist()
    s_ids = s.encode(("<|<bos>|>" if bos in ("student", "both") else "") + text).tolist()
    for extra in (False, True):
        if extra and text:  # one more space, on the student's side only
            s_ids = [i for i in s_ids if i == s.bos_id] + s.encode(" " + text).tolist()
        found = align_rows(t, s, [t_ids], [s_ids])
        lonely = {"teacher": (1, 0), "student": (0, 1)}.get(bos, (0, 0))
        assert found.stats["teacher_aligned"] == len(t_ids) - lonely[0]
        assert found.stats["student_aligned"] == len(s_ids) - lonely[1]
        assert found.stats["mismatched_rows"] == 0


def test_space_before_every_turn(tok) -> None:
    """A tokenizer that puts a space before each piece does so after every marker."""
    t, s = tok("tiny_llama"), tok("gpt2")
    marked = "<|<bos>|>one<|<eot>|>two<|<eot>|> three<|<eot>|>"
    t_ids, s_ids = t.encode(marked).tolist(), s.encode(marked).tolist()
    assert [t.tokens[i][0] for i in (t_ids[1],)] == ["Ġ"]
    found = align_rows(t, s, [t_ids], [s_ids])
    assert found.stats["teacher_aligned"] == len(t_ids) - 1
    assert found.stats["student_aligned"] == len(s_ids)


def test_nothing_is_aligned_after_a_difference(tok) -> None:
    t, s = tok("llama3"), tok("qwen2")
    t_ids, s_ids = t.encode("same start, then A and more"), s.encode("same start, then B and more")
    found = align_rows(t, s, [t_ids.tolist()], [s_ids.tolist()])
    stop = len(t.encode("same start, then "))
    chunks = found.teacher_chunks["unconstrained"][0, : len(t_ids)]
    assert (chunks[: stop - 1] >= 0).all() and (chunks[stop:] == -1).all()
    assert found.stats["mismatched_rows"] == 1


def test_masked_tokens_do_not_exist(tok) -> None:
    """Padding may stand anywhere, and its ids do not matter."""
    t, s = tok("llama3"), tok("qwen2")
    text = "<|<bos>|>some words here"
    plain = align_rows(t, s, [t.encode(text).tolist()], [s.encode(text).tolist()])
    t_ids, s_ids = t.encode(text), s.encode(text)
    width = len(t_ids) + 4
    ids, mask = np.full((1, width), 5), np.zeros((1, width), bool)
    places = [1, 2, *range(5, 5 + len(t_ids) - 2)]
    ids[0, places], mask[0, places] = t_ids, True
    for kind in KINDS:
        found = align(t, s, ids, s_ids[None], mask, None, kinds=(kind,))
        assert found.teacher_chunks[kind][0, places].tolist() == (
            plain.teacher_chunks[kind][0, : len(t_ids)].tolist()
        )
        assert (found.teacher_chunks[kind][~mask] == -1).all()
        assert list(found.teacher_chunks) == [kind]


def test_headers_do_not_reach_into_the_next_row(tok) -> None:
    """A row may be cut after the start of a header; the next one begins with "user"."""
    t, s = tok("llama3"), tok("mistral")
    texts = ["a<|<eot>|><|<start_header>|>", "user and more", "<|<start_header>|>", "system"]
    assert_equals_walk(t, s, *([x.encode(text).tolist() for text in texts] for x in (t, s)))


def test_empty_batches_and_rows(tok) -> None:
    t, s = tok("llama3"), tok("qwen2")
    nothing = np.zeros((0, 5), int), np.zeros((0, 5), bool)
    found = align(t, s, nothing[0], nothing[0], nothing[1], nothing[1], kinds=KINDS)
    assert found.teacher_chunks["space"].shape == (0, 5)
    blank = np.zeros((2, 3), int), np.zeros((2, 3), bool)
    found = align(t, s, blank[0], blank[0], blank[1], blank[1], kinds=KINDS)
    assert (found.student_chunks["space"] == -1).all() and found.stats["teacher_tokens"] == 0
    assert_equals_walk(t, s, [[], t.encode("a b").tolist()], [[], s.encode("a b").tolist()])
    assert_equals_walk(t, s, [t.encode("a b").tolist()], [[]])


def test_unbiased_chunks(tok) -> None:
    """Against the definition, chunk by chunk, with biases on half of all pairs."""
    t, s = tok("llama3"), tok("qwen2")
    generator = np.random.default_rng(0)
    shape = (1200, 600)  # smaller than the vocabularies: tokens added later
    biases = [generator.random(shape) * (generator.random(shape) < 0.5) for _ in range(2)]
    pair_bias = PairBias(*(sparse.csr_matrix(bias) for bias in biases))
    text = messages_to_markers([{"role": "user", "content": "def f(x):\n    return 12 + x"}])
    t_ids, s_ids = t.encode(text).tolist(), s.encode(text).tolist()
    kinds = ("unconstrained", "unbiased")
    found = align_rows(t, s, [t_ids], [s_ids], kinds=kinds, pair_bias=pair_bias, bias_threshold=0.3)
    fine = [c[kinds[0]][0] for c in (found.teacher_chunks, found.student_chunks)]
    coarse = [c[kinds[1]][0] for c in (found.teacher_chunks, found.student_chunks)]
    number, joined = 0, 0
    for chunk in range(fine[0].max() + 1):
        places = [np.flatnonzero(side == chunk) for side in fine]
        for side, where in zip(coarse, places, strict=True):
            assert set(side[where]) == {number}
        i, j = t_ids[places[0][-1]], s_ids[places[1][-1]]
        special = i in t.special_ids or j in s.special_ids
        special |= t.tokens[i] in ("ĊĊ",) or {t.tokens[i], s.tokens[j]} == {"user"}
        inside = i < shape[0] and j < shape[1]
        unbiased = not inside or max(bias[i, j] for bias in biases) <= 0.3
        number += bool(special or unbiased)
        joined += not (special or unbiased)
    assert joined and number > 3


def test_pair_bias_files(tmp_path) -> None:
    matrix = sparse.csr_matrix(np.array([[0.0, 0.5], [0.2, 0.0]]))
    for name in ("bias1_matrix.npz", "bias2_matrix.npz"):
        with pytest.raises(TokenizerError, match=f"{name}' does not exist"):
            load_pair_bias(tmp_path)
        sparse.save_npz(tmp_path / name, matrix.tocoo())
    for path in (tmp_path, tmp_path / "bias1_matrix.npz"):
        loaded = load_pair_bias(path)
        assert loaded.is_unbiased(np.array([0, 1, 0, 9]), np.array([1, 0, 0, 0]), 0.3).tolist() == [
            False,
            True,
            True,
            True,
        ]
    assert load_pair_bias("") is None
    (tmp_path / "bias2_matrix.npz").write_bytes(b"no archive")
    with pytest.raises(TokenizerError, match="bias2_matrix.npz' is not a sparse matrix"):
        load_pair_bias(tmp_path)
    sparse.save_npz(tmp_path / "bias2_matrix.npz", sparse.csr_matrix((3, 2)))
    with pytest.raises(TokenizerError, match="different shapes"):
        load_pair_bias(tmp_path)


def test_wrong_kinds_are_named(tok) -> None:
    ids = np.zeros((1, 1), int)
    with pytest.raises(TokenizerError, match="unknown alignment 'spaces'"):
        align(tok("llama3"), tok("qwen2"), ids, ids, kinds=("spaces",))
    with pytest.raises(TokenizerError, match="needs pair statistics"):
        align(tok("llama3"), tok("qwen2"), ids, ids, kinds=("unbiased",))


@pytest.mark.parametrize(("teacher", "student"), [("llama3", "qwen2"), ("llama3", "bytes")])
def test_memory_is_linear(tok, teacher: str, student: str) -> None:
    t, s = tok(teacher), tok(student)
    text = "some words, 12 numbers\n    and code(x) " * 2000
    t_ids, s_ids = t.encode(text), s.encode(text)
    peaks = []
    for tokens in (512, 2048, 8192):
        rows = [x[: tokens * k][None].repeat(4, 0) for x, k in ((t_ids, 1), (s_ids, 4))]
        align(t, s, *rows, kinds=KINDS)
        tracemalloc.start()
        align(t, s, *rows, kinds=KINDS)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 5 * peaks[0] and peaks[2] < 5 * peaks[1]


def test_every_pair_of_names_aligns_a_chat(tok) -> None:
    marked = messages_to_markers(
        [{"role": "user", "content": " Why?"}, {"role": "assistant", "content": "Because\n\nso."}]
    )
    for a, b in product(NAMES, NAMES):
        t_ids, s_ids = tok(a).encode(marked).tolist(), tok(b).encode(marked).tolist()
        stats = align_rows(tok(a), tok(b), [t_ids], [s_ids]).stats
        assert stats["mismatched_rows"] == 0, (a, b)
        both = tok(a).family.has_headers == tok(b).family.has_headers
        assert not both or stats["teacher_aligned"] >= len(t_ids) - 3, (a, b)
