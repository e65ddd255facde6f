"""Alignment: against a plain walk, for any text and pair; one-sided tokens; cuts; sizes."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from tests.tokenizers.samples import NAMES, with_template
from tests.tokenizers.test_encode import TEXT
from tokenkit.errors import TokenizerError
from tokenkit.tokenizers import (
    Conversation,
    Document,
    PairBias,
    Reading,
    align_pair,
    align_rows,
    encode_rows,
    load_pair_bias,
)
from tokenkit.tokenizers.chat.marked import encode_marked

KINDS = ("unconstrained", "space")
CHAT = [
    {"role": "user", "content": " Why?"},
    {"role": "assistant", "content": "Because\n\nso."},
    {"role": "user", "content": "日本?"},
    {"role": "assistant", "content": "Yes é 👍"},
]
PAIRS = [
    ("llama3", "qwen2"),
    ("gemma2", "qwen3"),
    ("bytes", "llama3_of_b"),
    ("tiny_llama", "mistral"),
    ("gpt2", "tiny_llama"),
    ("llama3", "phi3_spm"),
    ("phi3", "gemma_bytes"),
    ("metaspace", "llama3"),
    ("spaced", "qwen2"),
]


def encode(tok, texts: list[str], **options):
    return encode_rows(tok, [Document(text, **options) for text in texts])


def chunk_bytes(side, chunk: int) -> bytes:
    """The bytes of one side's tokens of a chunk, in one stretch."""
    places = np.flatnonzero(side.chunks == chunk)
    ranges = [side.byte_ranges[i] for i in places]
    assert all(a[1] == b[0] for a, b in zip(ranges, ranges[1:], strict=False))
    return b"".join(side.data[a:b] for a, b in ranges)


def check(pair, whole: bool = True) -> int:
    """Chunks are in order, of equal bytes and count whole; returns their number."""
    count = int(pair.teacher.chunks.max(initial=-1)) + 1
    special = set()
    for side in (pair.teacher, pair.student):
        inside = side.chunks[side.chunks >= 0]
        assert (np.diff(inside) >= 0).all() and set(inside.tolist()) == set(range(count))
    for chunk in range(count):
        counted = {
            bool(flag)
            for side in (pair.teacher, pair.student)
            for flag in side.loss_mask[side.chunks == chunk]
        }
        assert len(counted) == 1 or not whole
        one, other = (chunk_bytes(side, chunk) for side in (pair.teacher, pair.student))
        if one != other:  # ends of turns and of texts
            special.add((one, other))
    assert all(b"<" in a + b for a, b in special), special
    return count


@pytest.mark.parametrize(("teacher", "student"), PAIRS)
@settings(max_examples=20, deadline=None)
@given(text=TEXT, cut=st.integers(1, 60))
def test_chunks_end_where_both_sides_have_a_token_end(tok, teacher, student, text, cut) -> None:
    """Against sets of byte offsets, for whole rows and cut ones."""
    t, s = tok(teacher), tok(student)
    rows = [encode(x, [text], bos=False, eos=False)[0] for x in (t, s)]
    for a, b in ((rows[0], rows[1]), (rows[0].cut(cut), rows[1].cut(cut + 3))):
        found = align_rows(t, s, [a], [b])
        # A space that a tokenizer puts in has no bytes and goes with the next token.
        ends = [{int(e) for e, x in zip(r.end, r.begin, strict=True) if e > x} for r in (a, b)]
        common = sorted(ends[0] & ends[1])
        for row, chunks in (
            (a, found.teacher_chunks["unconstrained"][0]),
            (b, found.student_chunks["unconstrained"][0]),
        ):
            wanted = np.searchsorted(common, row.end)
            wanted = np.where(wanted < len(common), wanted, -1)
            real = row.end > row.begin
            assert chunks[real].tolist() == wanted[real].tolist()


@pytest.mark.parametrize("teacher", NAMES)
@settings(max_examples=8, deadline=None)
@given(text=TEXT, other=st.sampled_from(NAMES))
def test_any_text_and_any_pair(tok, teacher: str, text: str, other: str) -> None:
    t, s = tok(teacher), tok(other)
    for kind in KINDS:
        pair = align_pair(t, s, text, kind=kind)
        check(pair, whole=kind == "unconstrained")
        for side, x in ((pair.teacher, t), (pair.student, s)):
            lonely = [x.tokens[i] for i in side.ids[side.chunks < 0].tolist()]
            assert len(lonely) <= 1, "no token but BOS is left out"


@pytest.mark.parametrize(("teacher", "student"), PAIRS)
@pytest.mark.parametrize("loss_on", ["all", "assistant", "completion"])
def test_chats_of_two_families(tok, teacher: str, student: str, loss_on: str) -> None:
    t, s = tok(teacher), tok(student)
    pair = align_pair(t, s, CHAT, loss_on)
    assert check(pair) > 10
    for side in (pair.teacher, pair.student):
        aligned = np.zeros(len(side.data), bool)
        for (begin, end), chunk in zip(side.byte_ranges, side.chunks, strict=True):
            aligned[begin:end] |= chunk >= 0
        for message in CHAT:
            at = side.data.find(message["content"].encode())
            assert aligned[at : at + len(message["content"].encode())].all()


def groups(found, row: int) -> set[tuple]:
    """The tokens of each chunk of a row, on both sides."""
    sides = [found.teacher_chunks["unconstrained"][row], found.student_chunks["unconstrained"][row]]
    count = int(sides[0].max(initial=-1)) + 1
    return {tuple(tuple(np.flatnonzero(side == k)) for side in sides) for k in range(count)}


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("first", range(0, 40, 4))
def test_tokens_of_unknown_places_cost_their_own_chunks_only(tok, side: int, first: int) -> None:
    toks = tok("llama3"), tok("qwen2")
    rows = [encode_rows(t, [Conversation(CHAT), Document("So it is.")]) for t in toks]
    whole = align_rows(*toks, *rows)
    row = rows[side][0]
    begin, end = row.begin.copy(), row.end.copy()
    lost = slice(first, first + 5)
    begin[lost] = end[lost] = -1
    rows[side][0] = replace(row, begin=begin, end=end)
    found = align_rows(*toks, *rows)
    nowhere = set(range(len(begin))[lost])
    assert groups(found, 0) == {g for g in groups(whole, 0) if not nowhere & set(g[side])}
    assert groups(found, 1) == groups(whole, 1)
    assert found.stats["mismatched_rows"] == 1


def test_ends_of_turns_match(tok) -> None:
    pair = align_pair(tok("llama3"), tok("qwen2"), CHAT, "assistant")
    ends = [pair.teacher.ids.tolist().index(tok("llama3").ids["<|eot_id|>"], 20)]
    ends.append(np.flatnonzero(pair.student.ids == tok("qwen2").ids["<|im_end|>"])[1])
    assert pair.teacher.chunks[ends[0]] == pair.student.chunks[ends[1]] >= 0
    assert pair.teacher.loss_mask[ends[0]] and pair.student.loss_mask[ends[1]]


def test_templates_that_differ_in_a_system_prompt_align_around_it(tok, tmp_path) -> None:
    """What one side alone writes is in no chunk; all else is, headers included."""
    turns = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content }}"
    turns += "{{ '<|im_end|>\\n' }}{% endfor %}"
    prompt = "<|im_start|>system\nBe brief.<|im_end|>\n"
    said = "{{ '" + prompt.replace("\n", "\\n") + "' }}" + turns
    plain, prompted = with_template(tmp_path / "a", turns), with_template(tmp_path / "b", said)
    pair = align_pair(prompted, plain, CHAT)
    assert (pair.student.chunks >= 0).all()
    system = pair.teacher.byte_ranges[:, 0] < len(prompt)
    assert ((pair.teacher.chunks < 0) == system).all()
    assert check(pair) == len(pair.student.ids)


def test_contents_align_between_texts_that_have_nothing_in_common(tok, tmp_path) -> None:
    """No end of a turn, no common beginning or end leads to them: they anchor themselves."""
    loop = "{%% for m in messages %%}{{ '%s' + m.content + '%s' }}{%% endfor %%}"
    toks = [
        with_template(tmp_path / name, loop % (opening, closing))
        for name, opening, closing in (("square", "[", "]"), ("round", "(", ")"))
    ]
    pair = align_pair(*toks, CHAT)
    assert check(pair) > 10
    for side in (pair.teacher, pair.student):
        aligned = np.zeros(len(side.data), bool)
        for (begin, end), chunk in zip(side.byte_ranges, side.chunks, strict=True):
            aligned[begin:end] |= chunk >= 0
        # A token that also holds a bracket is in no chunk.
        inner = CHAT[1]["content"].encode()[2:-2]
        assert aligned[side.data.find(inner) :][: len(inner)].all()


@pytest.mark.parametrize(("teacher", "student"), PAIRS)
@settings(max_examples=15, deadline=None)
@given(
    parts=st.lists(
        st.sampled_from(
            ["<|im_start|>", "<|im_end|>", "<bos>", "<eos>", "<|eot_id|>", "</s>", "<|endoftext|>",
             "<unk>", "user", "\n", "\n\n", " it", "x", " ", "<|<eot>|>"]
        ),
        max_size=8,
    )
)  # fmt: skip
def test_no_chunk_is_lost_for_special_tokens_in_text(tok, teacher, student, parts) -> None:
    """Whether they are text, or tokens of one side or of both."""
    t, s = tok(teacher), tok(student)
    text = "".join(parts)
    pair = align_pair(t, s, text)
    check(pair)
    found = align_rows(t, s, *([encode_marked(x, text.replace("<|<eot>|>", ""))] for x in (t, s)))
    for chunks in (*found.teacher_chunks.values(), *found.student_chunks.values()):
        assert (chunks[0] >= 0).all()
    assert found.stats["mismatched_rows"] == 0


@pytest.mark.parametrize("name", ["gpt2", "tiny_llama"])
def test_an_added_token_of_one_side_between_words(tok, name: str) -> None:
    t, s = tok(name), tok("llama3")
    for first, second in ((t, s), (s, t)):
        rows = [encode_marked(x, "a <unk> b c") for x in (first, second)]
        found = align_rows(first, second, rows[:1], rows[1:])
        assert found.stats["teacher_aligned"] == len(rows[0].ids)
        assert found.stats["student_aligned"] == len(rows[1].ids)


def test_one_tokenizer_aligns_with_itself(tok) -> None:
    t = tok("llama3")
    pair = align_pair(t, t, CHAT)
    assert pair.teacher.chunks.tolist() == list(range(len(pair.teacher.ids)))


def test_character_split_across_tokens(tok) -> None:
    pair = align_pair(tok("bytes"), tok("gemma2"), "aé日b")
    assert (pair.teacher.chunks[1:] >= 0).all() and (pair.student.chunks[1:] >= 0).all()
    assert check(pair) >= 4


@pytest.mark.parametrize("text", ["Hello there", "  two spaces", "\n x", " "])
def test_bos_on_one_side_only(tok, text: str) -> None:
    pair = align_pair(tok("llama3"), tok("qwen2"), text)
    assert pair.teacher.chunks[0] == -1 and (pair.teacher.chunks[1:] >= 0).all()
    assert (pair.student.chunks >= 0).all() and check(pair) > 1


def test_empty_batches_and_rows(tok) -> None:
    t, s = tok("llama3"), tok("qwen2")
    found = align_rows(t, s, [], [], kinds=KINDS)
    assert found.teacher_chunks["space"] == [] and found.stats["teacher_tokens"] == 0
    options = {"bos": False, "eos": False}
    texts = ["", "a b", ""]
    found = align_rows(t, s, encode(t, texts, **options), encode(s, texts, **options), kinds=KINDS)
    assert [len(chunks) for chunks in found.student_chunks["space"]][::2] == [0, 0]
    assert (found.student_chunks["space"][1] >= 0).all()


def test_rows_do_not_depend_on_their_batch(tok) -> None:
    t, s = tok("tiny_llama"), tok("llama3")
    rows = [Document("a b c"), Conversation(CHAT), Document(""), Document("x" * 50, eos=False)]
    both = [encode_rows(x, rows, Reading("assistant")) for x in (t, s)]
    whole = align_rows(t, s, *both, kinds=KINDS)
    for i in range(len(rows)):
        alone = align_rows(t, s, both[0][i : i + 1], both[1][i : i + 1], kinds=KINDS)
        for kind in KINDS:
            assert np.array_equal(whole.teacher_chunks[kind][i], alone.teacher_chunks[kind][0])
            assert np.array_equal(whole.student_chunks[kind][i], alone.student_chunks[kind][0])
        assert np.array_equal(whole.student_counted[i], alone.student_counted[0])


def test_unbiased_chunks(tok) -> None:
    """Against the definition, chunk by chunk, with biases on half of all pairs."""
    t, s = tok("llama3"), tok("qwen2")
    generator = np.random.default_rng(0)
    shape = (1200, 600)  # smaller than the vocabularies: tokens added later
    biases = [generator.random(shape) * (generator.random(shape) < 0.5) for _ in range(2)]
    pair_bias = PairBias(*(sparse.csr_matrix(bias) for bias in biases))
    rows = [encode(x, ["def f(x):\n    return 12 + x"]) for x in (t, s)]
    kinds = ("unconstrained", "unbiased")
    found = align_rows(t, s, *rows, kinds=kinds, pair_bias=pair_bias, bias_threshold=0.3)
    fine = [c[kinds[0]][0] for c in (found.teacher_chunks, found.student_chunks)]
    coarse = [c[kinds[1]][0] for c in (found.teacher_chunks, found.student_chunks)]
    number, joined = 0, 0
    for chunk in range(fine[0].max() + 1):
        places = [np.flatnonzero(side == chunk) for side in fine]
        for side, where in zip(coarse, places, strict=True):
            assert set(side[where]) == {number}
        i, j = (int(row[0].ids[p[-1]]) for row, p in zip(rows, places, strict=True))
        special = i in t.special_ids and j in s.special_ids
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
        unbiased = load_pair_bias(path).is_unbiased(
            np.array([0, 1, 0, 9]), np.array([1, 0, 0, 0]), 0.3
        )
        assert unbiased.tolist() == [False, True, True, True]
    assert load_pair_bias("") is None
    (tmp_path / "bias2_matrix.npz").write_bytes(b"no archive")
    with pytest.raises(TokenizerError, match="bias2_matrix.npz' is not a sparse matrix"):
        load_pair_bias(tmp_path)
    sparse.save_npz(tmp_path / "bias2_matrix.npz", sparse.csr_matrix((3, 2)))
    with pytest.raises(TokenizerError, match="different shapes"):
        load_pair_bias(tmp_path)


def test_wrong_kinds_are_named(tok) -> None:
    with pytest.raises(TokenizerError, match="unknown alignment 'spaces'"):
        align_rows(tok("llama3"), tok("qwen2"), [], [], kinds=("spaces",))
    with pytest.raises(TokenizerError, match="needs pair statistics"):
        align_rows(tok("llama3"), tok("qwen2"), [], [], kinds=("unbiased",))


@pytest.mark.parametrize(("teacher", "student"), [("llama3", "qwen2"), ("llama3", "bytes")])
def test_memory_is_linear(tok, teacher: str, student: str) -> None:
    t, s = tok(teacher), tok(student)
    text = "some words, 12 numbers\n    and code(x) " * 2000
    rows = [encode(x, [text])[0] for x in (t, s)]
    peaks = []
    for tokens in (512, 2048, 8192):
        cut = [[row.cut(tokens * k)] * 4 for row, k in zip(rows, (1, 4), strict=True)]
        align_rows(t, s, *cut, kinds=KINDS)
        tracemalloc.start()
        align_rows(t, s, *cut, kinds=KINDS)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 5 * peaks[0] and peaks[2] < 5 * peaks[1]


def test_every_pair_of_names_aligns_a_chat(tok) -> None:
    for a, b in product(NAMES, NAMES):
        pair = align_pair(tok(a), tok(b), CHAT, "assistant")
        assert check(pair) >= 10, (a, b)
        assert pair.teacher.loss_mask.any() and pair.student.loss_mask.any(), (a, b)
