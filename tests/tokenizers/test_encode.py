"""Encoding: markers and added tokens, one call for many texts, cut texts, round trips."""

from __future__ import annotations

import pickle
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tokenizers.samples import NAMES
from tokenkit.tokenizers import MARKERS, Document, encode_rows
from tokenkit.tokenizers.markers import literal_pattern

UNICODE = st.text(max_size=60)
PIECES = st.sampled_from(
    [" ", "  ", "\n", "\n\n", "\t", "the ", "user", "model", "é", "日本", "👍", "\u0301", "<", "|>"]
)
# Ordinary text: no neutral markers
TEXT = st.lists(st.one_of(PIECES, UNICODE), max_size=12).map(
    lambda parts: "".join(parts).replace("<|<", "<<")
)


@given(
    st.lists(st.text("ab<|", min_size=1, max_size=4), min_size=1, max_size=8, unique=True),
    st.text("ab<|c", max_size=30),
)
def test_literal_pattern_equals_plain_alternation(literals: list[str], text: str) -> None:
    plain = re.compile("|".join(map(re.escape, literals)))
    found = re.compile(literal_pattern(literals)).findall(text)
    assert found == plain.findall(text)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=25, deadline=None)
@given(texts=st.lists(TEXT, min_size=1, max_size=3))
def test_round_trip_and_batches(tok, name: str, texts: list[str]) -> None:
    t = tok(name)
    if t.kind == "sentencepiece":
        texts = [text.replace("▁", "_") for text in texts]  # cannot be told from a space
    # These put a space only where there is none: "a" and " a" are encoded alike.
    lenient = name in ("spaced", "metaspace")
    for text, ids in zip(texts, t.encode_texts(texts), strict=True):
        assert ids.dtype == np.int32 and np.array_equal(ids, t.encode(text))
        assert t.decode(ids) == (text.removeprefix(" ") if lenient else text)


@pytest.mark.parametrize("name", NAMES)
def test_markers_become_the_familys_tokens(tok, name: str) -> None:
    t = tok(name)
    for marker in MARKERS:
        tokens = t.family.replacements[marker] or ()
        assert [t.tokens[i] for i in t.encode(marker)] == list(tokens)
    marked = "<|<bos>|>a<|<eot>|> b<|<pad>|>"
    parts = ["<|<bos>|>", "a", "<|<eot>|>", " b", "<|<pad>|>"]
    assert t.encode(marked).tolist() == [i for part in parts for i in t.encode(part)]


def test_empty_texts(tok) -> None:
    t = tok("qwen2")
    assert [ids.tolist() for ids in t.encode_texts(["", "a"])] == [[], t.encode_text("a")]
    assert t.encode("<|<bos>|>").tolist() == [], "this family has none"
    assert t.encode_texts([]) == [] and t.decode([]) == ""


def test_special_tokens_spelt_in_text_are_what_the_caller_says(tok) -> None:
    t = tok("llama3")
    text = "a<|eot_id|>b"
    assert t.encode_text(text) == [*t.encode_text("a"), t.eos_id, *t.encode_text("b")]
    assert t.encode_text(text) == t.hf(text, add_special_tokens=False)["input_ids"]
    spelt = t.encode_texts([text], as_text=True)[0]
    assert t.eos_id not in spelt and t.decode(spelt) == text
    assert t.encode_texts(["plain"], as_text=True)[0].tolist() == t.encode_text("plain")


@pytest.mark.parametrize("text", ["word " * 4000, "x" * 30000, "-" * 9000 + " end", "日" * 5000])
@pytest.mark.parametrize("name", ["llama3", "gemma2", "bytes"])
def test_cut_texts_equal_whole_ones(tok, name: str, text: str) -> None:
    t = tok(name)
    whole = encode_rows(t, [Document(text)])[0]
    for length in (1, 7, 128):
        (row,) = encode_rows(t, [Document(text)], max_length=length)
        assert len(row.ids) > length, "one more says that there are more"
        for key in ("ids", "begin", "end", "counted"):
            found = getattr(row.cut(length), key)
            np.testing.assert_array_equal(found, getattr(whole, key)[:length])


def test_cutting_looks_at_a_bounded_prefix(tok, monkeypatch) -> None:
    t = tok("llama3")
    seen = []
    encode = t.encode_texts
    monkeypatch.setattr(
        t,
        "encode_texts",
        lambda texts, *options: seen.append(sum(map(len, texts))) or encode(texts, *options),
    )
    encode_rows(t, [Document("word " * 100_000)], max_length=64)
    assert 0 < sum(seen) < 64 * 30


def test_half_a_surrogate_pair_is_replaced(tok) -> None:
    t = tok("llama3")
    assert t.decode(t.encode("a\ud83db")) == "a\N{REPLACEMENT CHARACTER}b"


def test_prefix_space_is_put_before_every_piece(tok) -> None:
    t = tok("spaced")
    assert t.tokens[t.encode("lines")[0]].startswith("Ġ")
    assert np.array_equal(t.encode("lines"), t.encode(" lines"))
    ids = t.encode_text("one<|eot_id|>two")
    place = ids.index(t.ids["<|eot_id|>"])
    assert [t.tokens[ids[k]][0] for k in (0, place, place + 1)] == ["Ġ", "<", "Ġ"]


@pytest.mark.parametrize("name", NAMES)
def test_bytes_to_ids(tok, name: str) -> None:
    """Whole byteified strings are spelt exactly, without a prefix space; broken UTF-8 is not."""
    t = tok(name)
    strings = ["the", "Ġthe", "ĠĠ", "user", "æĹ¥", "12", "Ċ"]
    for string, ids in zip(strings, t.tokenize_bytes_batch(strings), strict=True):
        assert "".join(t.tokens[i] for i in ids) == string
        assert t.tokenize_bytes(string) == ids
    assert t.tokenize_bytes_batch(["", "æĹ", "Ã"]) == [[], [], []]


def test_survives_pickling(tok) -> None:
    t = tok("qwen2")
    t.encode("x")
    again = pickle.loads(pickle.dumps(t))
    text = "<|<start_header>|>a b<|<eot>|>"
    assert np.array_equal(again.encode(text), t.encode(text)) and again.family == t.family


@pytest.mark.parametrize(
    ("mode", "firsts"),
    [("space", "Ġ"), ("tab", "ĉ"), ("newline", "Ċ"), ("space+tab+newline", "ĠĉĊ"), ("special", "")],
)
def test_space_mask(tok, mode: str, firsts: str) -> None:
    t = tok("llama3")
    mask = t.space_mask(mode)
    special = t.special_ids if mode == "special" else set()
    assert mask.tolist() == [s[:1] in firsts and s != "" and bool(firsts) or i in special
                             for i, s in enumerate(t.tokens)]  # fmt: skip


def test_space_mask_names_unknown_parts(tok) -> None:
    with pytest.raises(Exception, match="unknown part 'spaces'.*did you mean 'space'"):
        tok("llama3").space_mask("spaces+tab")
