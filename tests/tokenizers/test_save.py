"""Saved folders: plain transformers loads them and encodes to the same ids."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from tests.tokenizers import templates
from tests.tokenizers.samples import GOLDEN, NAMES, read_json, with_template, write_folder
from tests.tokenizers.templates import CHAT
from tokenkit.errors import TokenizerError
from tokenkit.tokenizers import Document, encode_rows, load_tokenizer, messages_to_markers

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
    with_bos = encode_rows(t, [Document(TEXT, eos=False)])[0].ids.tolist()
    assert plain(TEXT)["input_ids"] == with_bos
    assert len(with_bos) - len(t.encode_text(TEXT)) == bool(t.text_bos)
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
def test_a_familys_template_writes_its_markers(saved, name: str) -> None:
    t, plain = saved(name)
    marked = messages_to_markers(CHAT)
    assert plain.apply_chat_template(CHAT, tokenize=False) == t.decode(t.encode(marked))
    got = plain.apply_chat_template(CHAT, tokenize=True, return_dict=False)
    assert got == t.encode_chat(CHAT)
    if name != "qwen3":  # its regular expression cannot make "ĊĊ" of a text that goes on
        assert got == t.encode(marked).tolist()
    prompt = plain.apply_chat_template(CHAT[:2], add_generation_prompt=True, tokenize=False)
    header = "<|<start_header>|><|<assistant_name>|><|<end_header>|>"
    assert prompt == t.decode(t.encode(messages_to_markers(CHAT[:2]) + header))
    with pytest.raises(Exception, match=r"unknown role 'tool' \(allowed: system, user, assistant"):
        plain.apply_chat_template([{"role": "tool", "content": "x"}], tokenize=False)


@pytest.mark.parametrize("name", ["QWEN3", "MISTRAL", "MOVES_SYSTEM", "GENERATION", "TOOLS"])
def test_an_own_template_is_kept_verbatim(tmp_path, name: str) -> None:
    template = getattr(templates, name)
    t = with_template(tmp_path / "own", template)
    t.save(tmp_path / "saved")
    plain = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert plain.chat_template == template
    again = load_tokenizer(str(tmp_path / "saved"))
    for chat in (CHAT[1:], CHAT[1:2]):
        ids = t.encode_chat(chat)
        assert plain.apply_chat_template(chat, return_dict=False) == ids == again.encode_chat(chat)
    rows = [t.hf.convert_ids_to_tokens(tok.encode_chat(CHAT[1:])) for tok in (t, again)]
    assert rows[0] == rows[1]


def test_several_templates_are_all_kept(tmp_path) -> None:
    named = {"default": templates.QWEN2, "tool_use": templates.TOOLS}
    t = with_template(tmp_path / "own", [{"name": k, "template": v} for k, v in named.items()])
    t.save(tmp_path / "saved")
    plain = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert plain.chat_template == named
    tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    for options in ({}, {"tools": tools}):
        expected = plain.apply_chat_template(CHAT, return_dict=False, **options)
        assert t.encode_chat(CHAT, **options) == expected


def test_a_target_that_names_no_family_takes_over_the_sources_chats(tmp_path) -> None:
    source = with_template(tmp_path / "own", templates.MISTRAL, add_bos_token=True)
    target = load_tokenizer(f"{GOLDEN}/bpe_b", like=source)
    target.save(tmp_path / "saved")
    plain = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert plain.chat_template == templates.MISTRAL
    assert plain.apply_chat_template(CHAT[1:], tokenize=False) == source.hf.apply_chat_template(
        CHAT[1:], tokenize=False
    )
    assert plain.apply_chat_template(CHAT[1:], return_dict=False) == target.encode_chat(CHAT[1:])
    assert plain("a")["input_ids"] == [target.ids["<s>"], *target.encode_text("a")]


def test_a_named_family_without_headers_writes_contents_one_after_another(saved) -> None:
    t, plain = saved("gpt2")
    written = plain.apply_chat_template(CHAT[:2], tokenize=False)
    assert written == "Be brief.<|endoftext|>2 + 2?<|endoftext|>"
    assert plain.apply_chat_template(CHAT[:2], return_dict=False) == t.encode_chat(CHAT[:2])


def test_without_a_template_and_a_named_family_there_is_none(tmp_path) -> None:
    folder = write_folder(tmp_path / "own", read_json("bpe_b"), {"eos_token": "<|endoftext|>"})
    t = load_tokenizer(str(folder))
    t.save(tmp_path / "saved")
    assert AutoTokenizer.from_pretrained(tmp_path / "saved").chat_template is None
    with pytest.raises(TokenizerError, match="has no chat template.*name a family in its spec"):
        t.encode_chat(CHAT)


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


@pytest.mark.parametrize("first", ["\n", "\n\n"])
def test_the_longest_of_newline_runs_wins(tmp_path, first: str) -> None:
    """Gemma adds "\\n", "\\n\\n" and so on, in the order of their ids."""
    data = read_json("spm")
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    vocabulary = data["model"]["vocab"]
    for content in sorted(("\n", "\n\n"), key=lambda c: c != first):
        data["added_tokens"].append({"id": vocabulary[content], "content": content, **flags})
    t = load_tokenizer(f"{write_folder(tmp_path / 'in', data)}:source=Gemma2")
    assert t.encode_text("a\n\nb") == [
        *t.encode_text("a"), vocabulary["\n\n"], *t.encode_text("b")
    ]  # fmt: skip
    t.save(tmp_path / "out")
    plain = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert plain("a\n\nb", add_special_tokens=False)["input_ids"] == t.encode_text("a\n\nb")
    assert len(plain) == len(t)
