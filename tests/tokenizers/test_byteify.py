"""Byteified tokenizers: exact bytes, plain folders, clear refusals."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import AutoTokenizer

from tests.launch import TOKENIZERS
from tests.tokenizers.specs import SPECS, tokenizer
from tokenkit.errors import TokenizerError
from tokenkit.tokenizers import load_tokenizer, messages_to_markers
from tokenkit.tokenizers.alphabet import from_alphabet, to_alphabet

CHAT = [
    {"role": "user", "content": "What is 日本?"},
    {"role": "assistant", "content": " A country.\n\nIn Asia."},
]


@given(st.binary(max_size=40))
def test_alphabet_round_trip(data):
    assert from_alphabet(to_alphabet(data)) == data


@pytest.mark.parametrize("spec", SPECS)
@settings(max_examples=40, deadline=None)
@given(text=st.text(max_size=60).filter(lambda text: "<" not in text))  # no markers
def test_decode_inverts_encode(spec, text):
    tok = tokenizer(spec)
    ids = tok.encode(text)
    assert b"".join(tok.token_bytes[i] for i in ids) == text.encode("utf-8")
    assert tok.decode(ids) == text


@pytest.mark.parametrize("spec", SPECS)
def test_saved_folder_loads_without_tokenkit(spec, tmp_path):
    tok = tokenizer(spec)
    tok.save(tmp_path)
    plain = AutoTokenizer.from_pretrained(tmp_path)
    text = "Hello, wörld!\n\n  def f(x):\t1234"
    bos = [] if len(tok.marker_ids("<|<bos>|>")) == 0 else [tok.bos_id]
    assert plain(text)["input_ids"] == bos + tok.encode(text).tolist()
    assert (plain.pad_token_id, plain.eos_token_id) == (tok.pad_id, tok.eos_id)
    if tok.family.has_headers:
        rendered = plain.apply_chat_template(CHAT, tokenize=False)
        assert rendered == tok.decode(tok.encode(messages_to_markers(CHAT)))


def test_two_specs_of_one_folder_share_nothing():
    one = load_tokenizer(f"{TOKENIZERS}/bpe_b:source=Qwen2")
    before = (len(one), one.encode("<|<bos>|>a<|<eos>|>").tolist())
    load_tokenizer(f"{TOKENIZERS}/bpe_b:source=Qwen2:target=Llama3", tokens_to_add=["<x>"])
    assert (len(one), one.encode("<|<bos>|>a<|<eos>|>").tolist()) == before


def test_tokens_to_add():
    tok = load_tokenizer(f"{TOKENIZERS}/bpe_a:source=Llama3", tokens_to_add=["<think>"])
    assert len(tok) == 1506
    assert tok.encode("a<think>b").tolist() == [*tok.encode("a"), 1505, *tok.encode("b")]


def test_family_is_derived_from_special_tokens(tmp_path):
    tokenizer("bpe_a:source=Llama3").save(tmp_path)
    assert load_tokenizer(str(tmp_path)).family.name == "Llama3"
    with pytest.raises(TokenizerError, match="add :source="):
        load_tokenizer(f"{TOKENIZERS}/bpe_a")


def test_role_names_are_spelled_where_they_are_no_tokens(tmp_path):
    backend = Tokenizer(
        models.BPE(vocab={c: i for i, c in enumerate(to_alphabet(bytes(range(256))))}, merges=[])
    )
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "PreTrainedTokenizerFast"}'
    )
    tok = load_tokenizer(f"{tmp_path}:source=Llama3")
    assert tok.decode(tok.marker_ids("<|<user_name>|>")) == "user"
    assert len(tok.marker_ids("<|<user_name>|>")) == 4


def test_max_length_cuts():
    tok = tokenizer("bpe_a:source=Llama3")
    text = "one two three four five " * 50
    assert np.array_equal(tok.encode(text, max_length=7), tok.encode(text)[:7])


def save_backend(folder, backend):
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"})
    )
    return f"{folder}:source=GPT2"


def test_what_cannot_be_inverted_is_refused(tmp_path):
    wordpiece = Tokenizer(models.WordPiece({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    with pytest.raises(TokenizerError, match="WordPiece"):
        load_tokenizer(save_backend(tmp_path, wordpiece))
    lower = Tokenizer(models.BPE())
    lower.pre_tokenizer = pre_tokenizers.ByteLevel()
    lower.normalizer = normalizers.Lowercase()
    with pytest.raises(TokenizerError, match="changes letters"):
        load_tokenizer(save_backend(tmp_path, lower))


def test_unicode_normalisers(tmp_path, caplog):
    backend = Tokenizer.from_file(str(TOKENIZERS / "bpe_a" / "tokenizer.json"))
    backend.normalizer = normalizers.NFC()
    with caplog.at_level("WARNING", logger="tokenkit"):
        tok = load_tokenizer(save_backend(tmp_path, backend))
    assert "NFC normaliser is switched off" in caplog.text
    assert tok.decode(tok.encode("e\u0301")) == "e\u0301"
    backend.normalizer = normalizers.Sequence([normalizers.NFKC()])
    with pytest.raises(TokenizerError, match="NFKC is not supported"):
        load_tokenizer(save_backend(tmp_path, backend))


@pytest.mark.parametrize("path", ["./nowhere", "no_such_org/no_such_name"])
def test_missing_tokenizer(path):
    with pytest.raises(TokenizerError, match="cannot be loaded"):
        load_tokenizer(f"{path}:source=GPT2")
