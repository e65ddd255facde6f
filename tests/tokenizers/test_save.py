"""Saved folders: plain transformers loads them and encodes to the same ids."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from tests.tokenizers.samples import GOLDEN, NAMES
from tests.tokenizers.test_chat import CHAT
from tokenkit.tokenizers import load_tokenizer, messages_to_markers

TEXT = "  Hello world's\n\n\n 12345 <|x|> naïve e\u0301\t日本 👍 "
MODEL_TYPES = ("llama", "qwen2", "qwen3", "gemma2", "gemma3_text", "mistral", "phi3", "gpt2")


@pytest.fixture(scope="module")
def saved(tok, tmp_path_factory):
    """A saved tokenizer by name, with plain transformers' view of it."""
    cache = {}

    def get(name: str):
        if name not in cache:
            folder = tmp_path_factory.mktemp("saved") / name
            tok(name).save(folder)
            cache[name] = AutoTokenizer.from_pretrained(folder)
        return tok(name), cache[name]

    return get


@pytest.mark.parametrize("name", NAMES)
def test_encodes_alike(saved, name: str) -> None:
    t, plain = saved(name)
    assert plain(TEXT, add_special_tokens=False)["input_ids"] == t.encode(TEXT).tolist()
    with_bos = t.encode("<|<bos>|>" + TEXT).tolist()
    assert plain(TEXT)["input_ids"] == with_bos
    assert (plain.pad_token_id, plain.bos_token_id, plain.eos_token_id) == (
        t.pad_id,
        t.bos_id,
        t.eos_id,
    )
    assert plain.get_vocab() == t.hf.get_vocab()
    ids = t.encode("<|<bos>|>Hello<|<eos>|>")
    assert plain.decode(ids, skip_special_tokens=True).strip() == "Hello"


@settings(max_examples=15, deadline=None)
@given(text=st.text(max_size=40).map(lambda text: text.replace("<|<", "<<")))
@pytest.mark.parametrize("name", ["llama3", "gemma2", "bytes", "spaced", "tiny_llama"])
def test_encodes_any_text_alike(saved, name: str, text: str) -> None:
    t, plain = saved(name)
    assert plain(text, add_special_tokens=False)["input_ids"] == t.encode(text).tolist()


@pytest.mark.parametrize("name", ["llama3_of_b", "qwen2", "qwen3", "gemma2", "phi3", "bytes"])
def test_chat_template_writes_the_markers(saved, name: str) -> None:
    t, plain = saved(name)
    marked = messages_to_markers(CHAT)
    assert plain.apply_chat_template(CHAT, tokenize=False) == t.decode(t.encode(marked))
    got = plain.apply_chat_template(CHAT, tokenize=True, return_dict=False)
    if name != "qwen3":  # its regular expression cannot make "ĊĊ" of a text that goes on
        assert got == t.encode(marked).tolist()
    prompt = plain.apply_chat_template(CHAT[:2], add_generation_prompt=True, tokenize=False)
    header = "<|<start_header>|><|<assistant_name>|><|<end_header>|>"
    assert prompt == t.decode(t.encode(messages_to_markers(CHAT[:2]) + header))
    with pytest.raises(Exception, match="unknown role"):
        plain.apply_chat_template([{"role": "tool", "content": "x"}], tokenize=False)


def test_families_without_headers_have_no_template(saved) -> None:
    assert saved("gpt2")[1].chat_template is None


@pytest.mark.parametrize("model_type", MODEL_TYPES)
@pytest.mark.parametrize("spec", ["bpe_a:source=Llama3", "spm:source=Gemma2:target=Qwen2"])
def test_loads_alike_beside_any_model(tmp_path, model_type: str, spec: str) -> None:
    """transformers would give a Qwen2 model Qwen2's own pipeline; the folder must prevent that."""
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    t = load_tokenizer(f"{GOLDEN}/{spec}")
    t.save(tmp_path)
    plain = AutoTokenizer.from_pretrained(tmp_path)
    assert plain(TEXT, add_special_tokens=False)["input_ids"] == t.encode(TEXT).tolist()
    assert plain.get_vocab() == t.hf.get_vocab() and plain.eos_token_id == t.eos_id


@pytest.mark.parametrize("name", NAMES)
def test_can_be_loaded_and_saved_again(tok, saved, name: str, tmp_path) -> None:
    t, plain = saved(name)
    kind = ":conversion=prebyteified" if name in ("bytes", "gemma_bytes") else ""
    again = load_tokenizer(f"{plain.name_or_path}:source={t.family.name}{kind}")
    assert again.tokens == t.tokens
    assert np.array_equal(again.encode(TEXT), t.encode(TEXT))


def test_newline_runs_follow_the_first_added_token(tmp_path) -> None:
    """Gemma adds "\\n" and "\\n\\n"; the reference cuts at the first, plain tokenizers do not."""
    from tests.tokenizers.samples import read_json, write_folder

    data = read_json("spm")
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    vocabulary = data["model"]["vocab"]
    for content in sorted(("\n", "\n\n"), key=lambda c: vocabulary[c]):
        data["added_tokens"].append({"id": vocabulary[content], "content": content, **flags})
    t = load_tokenizer(f"{write_folder(tmp_path / 'in', data)}:source=Gemma2")
    ids = t.encode("a\n\nb").tolist()
    t.save(tmp_path / "out")
    plain = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert plain("a\n\nb", add_special_tokens=False)["input_ids"] == ids
    assert len(plain) == len(t)
