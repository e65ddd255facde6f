"""Texts → tensors: padding, truncation, loss masks, chunk ids."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.data.support import SPEC_A, SPEC_B
from tokenkit.data.collate import Collator
from tokenkit.tokenizers import align, encode_with_loss_mask, load_tokenizer

TEXTS = [
    "<|<bos>|>The quick brown fox jumps over the lazy dog, caf\u00e9 \U0001f600.<|<eos>|>",
    "<|<bos>|>def f(x):\n    return x + 1\n<|<eos>|>",
    "x",
]
CHAT = (
    "<|<bos>|><|<start_header>|><|<user_name>|><|<end_header>|>Two?<|<eot>|>"
    "<|<start_header>|><|<assistant_name>|><|<end_header>|>Yes, two.<|<eot>|>"
)


@pytest.fixture(scope="module")
def toks():
    return load_tokenizer(SPEC_A), load_tokenizer(SPEC_B)


def collator(toks, teacher=True, kinds=("unconstrained", "space"), loss_on="all", limits=(64, 80)):
    a, b = toks
    return Collator(b, a if teacher else None, kinds, loss_on, *limits)


def test_shapes_and_dtypes(toks):
    batch = collator(toks)(TEXTS)
    for ids, mask, loss_mask in (
        (batch.student_ids, batch.student_mask, batch.student_loss_mask),
        (batch.teacher_ids, batch.teacher_mask, batch.teacher_loss_mask),
    ):
        assert ids.dtype == torch.int64 and mask.dtype == loss_mask.dtype == torch.bool
        assert ids.shape == mask.shape == loss_mask.shape
        assert len(ids) == 3 and ids.shape[1] % 8 == 0
        assert ids.shape[1] - mask.sum(1).max() < 8, "padded to the longest row, no further"
    assert set(batch.student_chunks) == set(batch.teacher_chunks) == {"unconstrained", "space"}
    for kind in batch.student_chunks:
        assert batch.student_chunks[kind].dtype == torch.int32
        assert batch.student_chunks[kind].shape == batch.student_ids.shape
        assert batch.teacher_chunks[kind].shape == batch.teacher_ids.shape


def test_rows_are_what_the_tokenizers_say(toks):
    batch = collator(toks, loss_on="assistant")([*TEXTS, CHAT])
    sides = (
        (toks[0], batch.teacher_ids, batch.teacher_mask, batch.teacher_loss_mask),
        (toks[1], batch.student_ids, batch.student_mask, batch.student_loss_mask),
    )
    for tok, ids, mask, loss_mask in sides:
        for number, text in enumerate([*TEXTS, CHAT]):
            expected, covered = encode_with_loss_mask(tok, text, "assistant")
            n = len(expected)
            np.testing.assert_array_equal(ids[number, :n], expected)
            np.testing.assert_array_equal(loss_mask[number, :n], covered)
            assert mask[number, :n].all() and not mask[number, n:].any()
            assert (ids[number, n:] == tok.pad_id).all() and not loss_mask[number, n:].any()
        assert 0 < loss_mask[3].sum() < mask[3].sum(), "only the answer is covered"


def test_chunks_are_those_of_the_alignment(toks):
    batch = collator(toks)(TEXTS)
    found = align(
        *toks, batch.teacher_ids.numpy(), batch.student_ids.numpy(), batch.teacher_mask.numpy(),
        batch.student_mask.numpy(), kinds=("unconstrained", "space"),
    )  # fmt: skip
    for kind in ("unconstrained", "space"):
        np.testing.assert_array_equal(batch.teacher_chunks[kind], found.teacher_chunks[kind])
        np.testing.assert_array_equal(batch.student_chunks[kind], found.student_chunks[kind])
    assert found.stats.items() <= batch.stats.items()
    assert batch.stats["student_aligned"] > 0


def test_truncated_rows_are_counted_exactly(toks):
    lengths = [len(encode_with_loss_mask(toks[1], text, "all")[0]) for text in TEXTS]
    longest, second = sorted(lengths)[::-1][:2]
    for limit, truncated in ((longest, 0), (longest - 1, 1), (second, 1), (second - 1, 2)):
        batch = collator(toks, limits=(limit, 500))(TEXTS)
        assert batch.stats["truncated_rows"] == truncated
        assert batch.student_mask.sum(1).max() == limit
        assert batch.student_ids.shape[1] <= limit + 7
        expected, _ = encode_with_loss_mask(toks[1], TEXTS[0], "all", limit)
        assert batch.student_ids[0, : len(expected)].tolist() == expected.tolist()
    assert collator(toks, limits=(500, 4))(TEXTS).stats["truncated_rows"] == 2
    assert collator(toks, limits=(13, 13))(TEXTS).student_ids.shape == (3, 13)


def test_without_teacher(toks):
    batch = collator(toks, teacher=False)(TEXTS)
    assert batch.teacher_ids is batch.teacher_mask is batch.teacher_loss_mask is None
    assert batch.student_chunks == batch.teacher_chunks == {}
    assert batch.stats == {
        "rows": 3, "student_tokens": int(batch.student_mask.sum()), "truncated_rows": 0,
    }  # fmt: skip


def test_rows_of_hardly_any_token(toks):
    batch = collator(toks)(["", "x"])
    assert batch.student_mask.sum(1).tolist() == [0, 1]
    assert batch.student_ids.shape == batch.teacher_ids.shape == (2, 8)
    assert (batch.student_chunks["unconstrained"][0] == -1).all()


def test_pair_bias_reaches_the_alignment(toks):
    from scipy import sparse

    from tokenkit.tokenizers import PairBias

    shape = (len(toks[0]), len(toks[1]))
    always = sparse.csr_array(np.ones(shape, dtype=np.float32))
    never = sparse.csr_array(shape, dtype=np.float32)
    open_, closed = (
        Collator(toks[1], toks[0], ("unbiased",), "all", 64, 64, PairBias(bias, bias), 0.5)(
            TEXTS[1:2]
        )
        for bias in (never, always)
    )
    assert open_.student_chunks["unbiased"].max() > closed.student_chunks["unbiased"].max()


def test_moving_keeps_everything(toks):
    batch = collator(toks)(TEXTS)
    moved = batch.to(torch.device("meta"))
    assert moved.teacher_ids.device.type == "meta" == moved.student_chunks["space"].device.type
    assert moved.stats == batch.stats and batch.teacher_ids.device.type == "cpu"
    assert collator(toks, teacher=False)(TEXTS).to(torch.device("cpu")).teacher_ids is None
