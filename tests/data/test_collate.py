"""Rows → tensors: padding, truncation, loss masks, chunk ids."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.data.support import SPEC_A, SPEC_B
from tests.tokenizers.samples import read_json, write_folder
from tokenkit.data.collate import Collator
from tokenkit.errors import DataError, TokenizerError
from tokenkit.tokenizers import (
    Conversation,
    Document,
    InputExpander,
    Reading,
    align_pair,
    encode_rows,
    load_tokenizer,
)

ROWS = [
    Document("The quick brown fox jumps over the lazy dog, caf\u00e9 \U0001f600."),
    Document("def f(x):\n    return x + 1\n"),
    Document("x", bos=False, eos=False),
]
CHAT = Conversation(
    [{"role": "user", "content": "Two?"}, {"role": "assistant", "content": "Yes, two."}]
)


@pytest.fixture(scope="module")
def toks():
    return load_tokenizer(SPEC_A), load_tokenizer(SPEC_B)


ALL = Reading("all")


def collator(toks, teacher=True, kinds=("unconstrained", "space"), reading=ALL, limits=(64, 80)):
    a, b = toks
    return Collator(b, a if teacher else None, kinds, reading, *limits)


def test_shapes_and_dtypes(toks):
    batch = collator(toks)(ROWS)
    for ids, mask, loss_mask in (
        (batch.student.ids, batch.student.mask, batch.student.loss_mask),
        (batch.teacher.ids, batch.teacher.mask, batch.teacher.loss_mask),
    ):
        assert ids.dtype == torch.int64 and mask.dtype == loss_mask.dtype == torch.bool
        assert ids.shape == mask.shape == loss_mask.shape
        assert len(ids) == 3 and ids.shape[1] % 8 == 0
        assert ids.shape[1] - mask.sum(1).max() < 8, "padded to the longest row, no further"
    assert set(batch.student.chunks) == set(batch.teacher.chunks) == {"unconstrained", "space"}
    for kind in batch.student.chunks:
        assert batch.student.chunks[kind].dtype == torch.int32
        assert batch.student.chunks[kind].shape == batch.student.ids.shape
        assert batch.teacher.chunks[kind].shape == batch.teacher.ids.shape


def test_rows_are_what_the_tokenizers_say(toks):
    reading = Reading("assistant")
    batch = collator(toks, reading=reading)([*ROWS, CHAT])
    sides = (
        (toks[0], batch.teacher.ids, batch.teacher.mask, batch.teacher.loss_mask),
        (toks[1], batch.student.ids, batch.student.mask, batch.student.loss_mask),
    )
    for tok, ids, mask, loss_mask in sides:
        for number, row in enumerate(encode_rows(tok, [*ROWS, CHAT], reading)):
            n = len(row.ids)
            np.testing.assert_array_equal(ids[number, :n], row.ids)
            np.testing.assert_array_equal(loss_mask[number, :n], row.counted)
            assert mask[number, :n].all() and not mask[number, n:].any()
            assert (ids[number, n:] == tok.pad_id).all() and not loss_mask[number, n:].any()
        assert 0 < loss_mask[3].sum() < mask[3].sum(), "only the answer is covered"


@pytest.mark.parametrize("kind", ["unconstrained", "space"])
def test_chunks_are_those_of_each_row_alone(toks, kind):
    batch = collator(toks)([*ROWS, CHAT])
    found = [align_pair(*toks, row, kind=kind) for row in [*ROWS, CHAT]]
    for side in ("teacher", "student"):
        seq = getattr(batch, side)
        chunks, mask = seq.chunks[kind], seq.mask
        for number, pair in enumerate(found):
            np.testing.assert_array_equal(chunks[number][mask[number]], getattr(pair, side).chunks)
        assert (chunks[~mask] == -1).all()
        aligned = sum(int((getattr(pair, side).chunks >= 0).sum()) for pair in found)
        if kind == "unconstrained":
            assert batch.stats[f"{side}_aligned"] == aligned > 0
            assert batch.stats[f"{side}_tokens"] == int(mask.sum())
            assert batch.stats[f"{side}_places"] == mask.numel()
    assert batch.stats["mismatched_rows"] == 0


def test_special_tokens_in_rows_are_what_the_reading_says(toks):
    row = Document("a <|eot_id|> b", where="data.jsonl:3")
    eot = [tok.ids["<|eot_id|>"] for tok in toks]
    for spelt, there in (("text", False), ("parse", True)):
        batch = collator(toks, reading=Reading(spelt=spelt))([row])
        assert (eot[0] in batch.teacher.ids[batch.teacher.mask][:-1].tolist()) == there
        assert (eot[1] in batch.student.ids[batch.student.mask][:-1].tolist()) == there
    with pytest.raises(DataError, match=r"^data\.jsonl:3: the text spells '<\|eot_id\|>'"):
        collator(toks, reading=Reading(spelt="refuse"))([ROWS[0], row])


def test_both_sides_read_the_form_that_one_of_them_needs(tmp_path):
    """A teacher that composes characters sees "é" where the file has "e" and an accent."""
    data = read_json("bpe_a") | {"normalizer": {"type": "NFC"}}
    composing = load_tokenizer(f"{write_folder(tmp_path / 'nfc', data)}:source=Llama3")
    plain = load_tokenizer(SPEC_B)
    batch = collator((composing, plain))([Document("cafe\u0301 e\u0301t\u00e9")])
    assert batch.stats["mismatched_rows"] == 0
    assert (
        plain.decode(batch.student.ids[0][batch.student.mask[0]][1:-1]) == "caf\u00e9 \u00e9t\u00e9"
    )
    data["normalizer"] = {"type": "NFD"}
    other = load_tokenizer(f"{write_folder(tmp_path / 'nfd', data)}:source=Llama3")
    with pytest.raises(TokenizerError, match="see no text alike: .*NFD.*NFC"):
        collator((composing, other))(ROWS)


def test_truncated_rows_are_counted_exactly(toks):
    lengths = [len(row.ids) for row in encode_rows(toks[1], ROWS)]
    longest, second = sorted(lengths)[::-1][:2]
    for limit, truncated in ((longest, 0), (longest - 1, 1), (second, 1), (second - 1, 2)):
        batch = collator(toks, limits=(limit, 500))(ROWS)
        assert batch.stats["truncated_rows"] == truncated
        assert batch.student.mask.sum(1).max() == limit
        assert batch.student.ids.shape[1] <= limit + 7
        expected = encode_rows(toks[1], ROWS[:1])[0].ids[:limit]
        assert batch.student.ids[0, : len(expected)].tolist() == expected.tolist()
    assert collator(toks, limits=(500, 4))(ROWS).stats["truncated_rows"] == 2
    assert collator(toks, limits=(13, 13))(ROWS).student.ids.shape == (3, 13)


def test_rows_that_end_too_early_for_the_student_are_counted(toks):
    assert collator(toks, limits=(5, 500))(ROWS).stats["short_rows"] == 2
    assert collator(toks, limits=(500, 5))(ROWS).stats["short_rows"] == 0  # the teacher alone
    cut = collator((toks[0], toks[0]), limits=(7, 7))(ROWS).stats  # both at the same place
    assert cut["truncated_rows"] == 2 and cut["short_rows"] == 0


def test_expanded_bytes(toks):
    spec = str(toks[0].spec)
    byte = load_tokenizer(f"{spec}:conversion=byte")
    expander = InputExpander(byte, toks[0])
    batch = replace(collator((toks[0], byte)), expander=expander)(ROWS)
    seq = batch.student
    assert seq.subwords.dtype == torch.int64 and batch.teacher.subwords is None
    for ids, subwords, mask in zip(seq.ids, seq.subwords, seq.mask, strict=True):
        alone = expander.expand(ids[mask].numpy()[None])[0]
        assert subwords[mask].tolist() == alone.tolist()


def test_without_teacher(toks):
    batch = collator(toks, teacher=False)(ROWS)
    assert batch.teachers == {} and batch.teacher is None and batch.student.chunks == {}
    assert batch.stats == {
        "rows": 3, "student_tokens": int(batch.student.mask.sum()),
        "student_places": batch.student.mask.numel(), "truncated_rows": 0, "short_rows": 0,
        "bad_rows": 0,
    }  # fmt: skip


def test_rows_of_hardly_any_token(toks):
    batch = collator(toks)([replace(ROWS[2], text=text) for text in ("", "x")])
    assert batch.student.mask.sum(1).tolist() == [0, 1]
    assert batch.student.ids.shape == batch.teacher.ids.shape == (2, 8)
    assert (batch.student.chunks["unconstrained"][0] == -1).all()


def test_pair_bias_reaches_the_alignment(toks):
    from scipy import sparse

    from tokenkit.tokenizers import PairBias

    shape = (len(toks[0]), len(toks[1]))
    always = sparse.csr_array(np.ones(shape, dtype=np.float32))
    never = sparse.csr_array(shape, dtype=np.float32)
    open_, closed = (
        Collator(toks[1], toks[0], ("unbiased",), Reading(), 64, 64, PairBias(bias, bias), 0.5)(
            ROWS[1:2]
        )
        for bias in (never, always)
    )
    assert open_.student.chunks["unbiased"].max() > closed.student.chunks["unbiased"].max()


def test_moving_keeps_everything(toks):
    batch = collator(toks)(ROWS)
    moved = batch.to(torch.device("meta"))
    assert moved.teacher.ids.device.type == "meta" == moved.student.chunks["space"].device.type
    assert moved.stats == batch.stats and batch.teacher.ids.device.type == "cpu"
    assert collator(toks, teacher=False)(ROWS).to(torch.device("cpu")).teachers == {}
