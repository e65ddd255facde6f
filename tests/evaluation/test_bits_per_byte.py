"""Windows: each token scored once, with as much context as fits; bits against transformers."""

from __future__ import annotations

import logging
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from tests.models.test_causal_lm import load
from tests.models.tiny import save_tiny
from tests.tokenizers.samples import read_json, write_folder
from tests.tokenizers.specs import tokenizer
from tokenkit.errors import DataError, ModelError
from tokenkit.evaluation.bits_per_byte import (
    batches_of,
    bits_per_byte,
    document_bits,
    encode_documents,
    windows_of,
    writable_texts,
)
from tokenkit.evaluation.folder import folder_bits_per_byte
from tokenkit.tokenizers import load_tokenizer

CONTEXT = 999
TEXTS = ["def f(x):\n    return x", "日本", "a longer text " * 20, "a <|eot_id|> b"]
CPU = {"device": torch.device("cpu")}


@given(st.lists(st.integers(1, 9), max_size=60), st.integers(1, 40))
def test_each_token_is_scored_once_in_a_window_of_bytes(sizes, max_bytes):
    ids, ends = np.arange(len(sizes)), np.cumsum(sizes)
    scored = []
    for number, window in enumerate(windows_of(ids, ends, CONTEXT, max_bytes)):
        assert window.ids[0] == CONTEXT and window.first >= 1
        inside, new = window.ids[1:], window.ids[window.first :]
        scored += new.tolist()
        assert (np.diff(inside) == 1).all()
        begin, end = ends[inside] - np.array(sizes)[inside], ends[inside]
        # Full, and no token could be spared; one longer than a window still is a window.
        assert end[-1] - begin[0] >= min(max_bytes, end[-1])
        assert end[-1] - end[0] < max_bytes
        step = max(1, max_bytes // 2) if number else max_bytes
        assert len(new) == 1 or sum(sizes[i] for i in new) <= step
    assert scored == ids.tolist()


def test_windows_of_bytes_by_hand():
    ids = np.array([5, 6, 7, 8])
    found = windows_of(ids, np.array([2, 4, 6, 8]), CONTEXT, 4)
    shown = [(window.ids.tolist(), window.first) for window in found]
    assert shown == [([CONTEXT, 5, 6], 1), ([CONTEXT, 6, 7], 2), ([CONTEXT, 7, 8], 2)]
    assert windows_of(ids[:0], np.array([], int), CONTEXT, 4) == []


def test_a_byte_level_tokenizer_sees_as_much_text():
    text = "return the value of self, and no more than that " * 8
    cuts = []
    for spec in ("bpe_a:source=Llama3", "bpe_a:source=Llama3:conversion=byte"):
        (row,) = encode_documents(tokenizer(spec), [text])
        windows = windows_of(row.ids, row.end, CONTEXT, 64)
        at = np.cumsum([0, *(len(window.ids) - window.first for window in windows)])[:-1]
        cuts.append(row.begin[at])
    assert abs(len(cuts[0]) - len(cuts[1])) <= len(cuts[1]) // 4
    assert len(cuts[1]) == math.ceil((len(text) - 64) / 32) + 1


def test_batches_mark_the_right_positions():
    windows = windows_of(np.arange(10, 21), np.arange(1, 12), 9, 6)
    total = 0
    for seq in batches_of(windows, 2):
        assert (seq.ids[~seq.mask] == 0).all() and not seq.counted[:, 0].any()
        assert (seq.ids[:, 0] == 9).all()
        total += int(seq.counted.sum())
    assert total == 11


def test_bits_of_documents_are_those_of_each_alone(tmp_path):
    _, model = load(save_tiny(tmp_path / "m", "llama", vocab_size=1505))
    tok = tokenizer("bpe_a:source=Llama3")
    options = {"max_bytes": 16, "batch_size": 3, **CPU}
    bits = document_bits(model, tok, TEXTS, **options)
    for text, found in zip(TEXTS, bits.tolist(), strict=True):
        alone = bits_per_byte(model, tok, [text], **options) * len(text.encode())
        assert found == pytest.approx(alone, rel=1e-5)
    halves = [document_bits(model, tok, TEXTS, rank=r, ranks=2, **options) for r in range(2)]
    torch.testing.assert_close(sum(halves), bits)


def test_a_tokenizer_with_more_tokens_than_the_model_has_rows(tmp_path):
    """Padding may have no row (before, an IndexError); what texts begin with must have one."""
    tok = tokenizer("bpe_a:source=Llama3")
    own, begin = 1500, tok.ids[tok.text_bos]
    assert own <= begin < tok.pad_id == len(tok) - 1
    options = {"max_bytes": 256, "batch_size": 4, **CPU}
    folder = save_tiny(tmp_path / "no_pad", "llama", vocab_size=tok.pad_id)
    texts = [text for text in TEXTS if len(text) < 100]
    found = folder_bits_per_byte(str(folder), tok, texts, **options)
    alone = plain_bits(folder, tok, texts, begin)
    assert found == pytest.approx(alone, rel=1e-4)

    folder = save_tiny(tmp_path / "no_bos", "llama", vocab_size=own)
    with pytest.raises(ModelError, match=r"none for '<\|begin_of_text\|>' \(id 1500\)"):
        folder_bits_per_byte(str(folder), tok, texts, **options)


def plain_bits(folder, tok, texts, context):
    """By transformers, a document at a time, nothing cut."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    nats = 0.0
    for text in texts:
        ids = tok.encode_texts([text], as_text=True)[0].tolist()
        with torch.no_grad():
            logits = model(torch.tensor([[context, *ids]])).logits[0]
        nats -= logits.log_softmax(-1)[range(len(ids)), ids].double().sum().item()
    return nats / math.log(2) / sum(len(text.encode()) for text in texts)


@pytest.mark.parametrize(
    ("spec", "context"),
    [
        ("bpe_a:source=Llama3", "<|begin_of_text|>"),
        ("bpe_a:source=Llama3:target=Qwen2", "<|endoftext|>"),  # no BOS: EOS ends what is before
    ],
)
def test_equals_transformers(tmp_path, spec, context):
    tok = tokenizer(spec)
    folder = save_tiny(tmp_path / "m", "llama", vocab_size=len(tok), max_position_embeddings=512)
    _, model = load(folder)
    expected = plain_bits(folder, tok, TEXTS, tok.ids[context])
    found = bits_per_byte(model, tok, TEXTS, max_bytes=4096, batch_size=2, **CPU)
    assert found == pytest.approx(expected, rel=1e-5)


def test_batch_size_and_sharing_change_nothing(tmp_path):
    _, model = load(save_tiny(tmp_path / "m", "llama", vocab_size=1505))
    tok = tokenizer("bpe_a:source=Llama3")
    options = {"max_bytes": 16, **CPU}
    whole = bits_per_byte(model, tok, TEXTS, batch_size=100, **options)
    one = bits_per_byte(model, tok, TEXTS, batch_size=1, **options)
    assert one == pytest.approx(whole, rel=1e-5)
    shares = [
        bits_per_byte(model, tok, TEXTS, batch_size=2, rank=r, ranks=3, **options) for r in range(3)
    ]
    assert sum(shares) == pytest.approx(whole, rel=1e-5)


def test_texts_that_a_tokenizer_cannot_write_are_left_out_of_both_sides(
    tmp_path, caplog, monkeypatch
):
    monkeypatch.setattr(logging.getLogger("tokenkit"), "propagate", True)
    data = read_json("bpe_b")
    data["model"]["merges"] = [m for m in data["model"]["merges"] if "\u0120" not in "".join(m)]
    vocabulary = [k for k in data["model"]["vocab"] if "\u0120" not in k]
    data["model"]["vocab"] = {k: i for i, k in enumerate(vocabulary)}
    lacking = load_tokenizer(f"{write_folder(tmp_path, data)}:source=GPT2")
    whole = tokenizer("bpe_a:source=Llama3")
    caplog.clear()
    assert writable_texts([whole, lacking], ["word", "two words", "日本"]) == ["word", "日本"]
    # Other libraries may speak meanwhile.
    said = {record.getMessage() for record in caplog.records if record.name == "tokenkit"}
    (named,) = (line for line in said if line.startswith("document "))
    assert named.startswith("document 2 ('two words') is left out: tokenizer '")
    with pytest.raises(DataError, match="no document is left"):
        writable_texts([whole, lacking], ["two words"])
    assert writable_texts([whole], []) == []
