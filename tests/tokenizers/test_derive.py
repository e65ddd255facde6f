"""Families read off a tokenizer equal the table's, up to what the README of the layer lists."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from tests.tokenizers import templates
from tests.tokenizers.samples import GOLDEN, prefixed, read_json, write_folder
from tokenkit.errors import DataError, TokenizerError
from tokenkit.tokenizers import FAMILIES, load_tokenizer, messages_to_markers
from tokenkit.tokenizers.families import BOS, EOS

DIALOG = [
    {"role": "user", "content": "What is this?"},
    {"role": "assistant", "content": "A test,\n\nobviously."},
    {"role": "user", "content": "Sure?"},
]


@dataclass
class Case:
    """A published tokenizer's configuration, on a small vocabulary."""

    family: str
    template: str | None
    bos: str | None
    eos: str
    pad: str | None = None
    extra: tuple[str, ...] = ()  # added tokens beside the family's
    adds_bos: bool = False
    differs: tuple[str, ...] = ()  # markers for which the README names a difference
    written: tuple[str, ...] = ()  # of the others, those that the template writes


LLAMA3 = ("<|begin_of_text|>", "<|eot_id|>")
CASES = {
    "Qwen2": Case("Qwen2", templates.QWEN2, None, "<|endoftext|>", "<|endoftext|>"),
    "Qwen2 instruct": Case(
        "Qwen2", templates.QWEN2, None, "<|im_end|>", "<|endoftext|>", differs=(EOS,)
    ),
    "Qwen3": Case(
        "Qwen3", templates.QWEN3, None, "<|im_end|>", "<|endoftext|>",
        ("<think>", "</think>", "<tool>"), differs=(BOS, EOS), written=("<think>", "</think>"),
    ),
    "Llama3 instruct": Case("Llama3", templates.LLAMA3, *LLAMA3),
    "Llama3.1 instruct": Case("Llama3", templates.LLAMA3_1, *LLAMA3, adds_bos=True),
    "Llama3 first": Case("Llama3", templates.LLAMA3_ALWAYS_PROMPTS, *LLAMA3),
    "Llama3 base": Case("Llama3", None, "<|begin_of_text|>", "<|end_of_text|>", adds_bos=True),
    "Gemma2": Case("Gemma2", templates.GEMMA2, "<bos>", "<eos>", "<pad>"),
    "Gemma2 base": Case("Gemma2", None, "<bos>", "<eos>", "<pad>"),
    "Gemma3": Case("Gemma3", templates.GEMMA3, "<bos>", "<eos>", "<pad>", ("<start_of_image>",)),
    "Phi3": Case("Phi3", templates.PHI3, None, "<|endoftext|>", "<|endoftext|>"),
    "GPT2": Case("GPT2", None, "<|endoftext|>", "<|endoftext|>"),
    "TinyLlama": Case("TinyLlama", None, "<s>", "</s>", adds_bos=True),
    "Mistral": Case("Mistral", None, "<s>", "</s>", None, ("[INST]", "[/INST]"), adds_bos=True),
    "Mistral instruct": Case(
        "Mistral", templates.MISTRAL, "<s>", "</s>", None, ("[INST]", "[/INST]"),
        written=("[INST]", "[/INST]"),
    ),
}  # fmt: skip


def write_case(folder: Path, case: Case) -> Path:
    """A tokenizer folder without any sign of tokenkit."""
    family = FAMILIES[case.family]
    data = read_json("bpe_a") if case.family != "TinyLlama" else prefixed("prepend")
    size = 1 + max(data["model"]["vocab"].values())
    known = {token["content"] for token in data["added_tokens"]} | set(data["model"]["vocab"])
    new = [t for t in (*family.special_tokens, *case.extra) if t not in known]
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    data["added_tokens"] += [
        {"id": size + k, "content": token, "special": True} | flags for k, token in enumerate(new)
    ]
    config = {"bos_token": case.bos, "eos_token": case.eos, "pad_token": case.pad}
    config = {k: v for k, v in config.items() if v} | {"chat_template": case.template}
    if case.adds_bos:
        bos = {"SpecialToken": {"id": case.bos, "type_id": 0}}
        text = [{"Sequence": {"id": k, "type_id": n}} for n, k in enumerate("AB")]
        ids = {**{t["content"]: t["id"] for t in data["added_tokens"]}, **data["model"]["vocab"]}
        data["post_processor"] = {
            "type": "TemplateProcessing",
            "single": [bos, text[0]],
            "pair": [bos, *text],
            "special_tokens": {
                case.bos: {"id": case.bos, "ids": [ids[case.bos]], "tokens": [case.bos]}
            },
        }
    return write_folder(folder, data, config)


@pytest.mark.parametrize("name", CASES)
def test_derived_entries_equal_the_tables(tmp_path, name: str) -> None:
    case = CASES[name]
    derived = load_tokenizer(str(write_case(tmp_path, case))).family
    expected = FAMILIES[case.family]
    different = tuple(
        marker
        for marker, tokens in expected.replacements.items()
        if derived.replacements[marker] != tokens
    )
    assert different == case.differs
    assert set(derived.special_tokens) == {*expected.special_tokens, *case.written}
    if not different:
        assert derived.name == expected.name and derived.hints == expected.hints


@pytest.mark.parametrize("name", [n for n, c in CASES.items() if c.template])
def test_markers_equal_the_chat_template(tmp_path, name: str) -> None:
    case = CASES[name]
    tok = load_tokenizer(str(write_case(tmp_path, case)))
    if not tok.family.has_headers:
        pytest.skip("the template cannot be said in markers")
    text = tok.hf.apply_chat_template(DIALOG, tokenize=False)
    text = text.replace("<|im_start|>system\nYou are helpful.<|im_end|>\n", "")
    date = "Today Date: 26 Jul 2024\n\n"
    text = text.replace(f"<|start_header_id|>system<|end_header_id|>\n\n{date}<|eot_id|>", "")
    marked = messages_to_markers(DIALOG)
    if name == "Llama3 first":
        marked += "<|<start_header>|><|<assistant_name>|><|<end_header>|>"
    if name == "Phi3":
        marked += "<|<eos>|>"
    assert tok.decode(tok.encode(marked)) == text
    if case.family != "Llama3":  # this small tokenizer cuts "\n\n" in two
        assert tok.encode(marked).tolist() == tok.hf(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("family", FAMILIES)
def test_saved_tokenizers_derive_what_they_were(tmp_path, family: str) -> None:
    tok = load_tokenizer(f"{GOLDEN}/bpe_a:source=Llama3:target={family}")
    tok.save(tmp_path / "saved")
    again = load_tokenizer(str(tmp_path / "saved"))
    assert again.family.replacements == tok.family.replacements
    text = messages_to_markers([{"role": "system", "content": "Be brief."}, *DIALOG])
    assert again.encode(text).tolist() == tok.encode(text).tolist()


def test_a_format_that_no_table_knows(tmp_path) -> None:
    data = read_json("bpe_a")
    size = len(data["model"]["vocab"])
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    for k, token in enumerate(("<|turn|>", "<|stop|>", "<|first|>")):
        data["added_tokens"].append({"id": size + k, "content": token, "special": True} | flags)
    config = {"bos_token": "<|first|>", "eos_token": "<|stop|>", "chat_template": templates.NEW}
    tok = load_tokenizer(str(write_folder(tmp_path, data, config)))
    assert tok.family.name == "derived"
    assert tok.family.special_tokens == ("<|turn|>", "<|stop|>", "<|first|>")
    assert dict(tok.family.replacements) == {
        "<|<bos>|>": ("<|first|>",),
        "<|<pad>|>": ("<|stop|>",),
        "<|<start_header>|>": ("<|turn|>",),
        "<|<end_header>|>": (":Ċ",),
        "<|<eos>|>": ("<|stop|>",),
        "<|<eot>|>": ("<|stop|>",),
        "<|<system_name>|>": ("Rules",),
        "<|<user_name>|>": ("Human",),
        "<|<assistant_name>|>": ("Robot",),
    }
    dialog = [{"role": "system", "content": "None."}, *DIALOG]
    text = tok.hf.apply_chat_template(dialog, tokenize=False)
    assert tok.decode(tok.encode(messages_to_markers(dialog))) == text


@pytest.mark.parametrize("template", ["DEEPSEEK", "PLAIN_WORDS"])
def test_templates_that_markers_cannot_say_write_the_chats(tmp_path, template: str) -> None:
    case = Case("GPT2", getattr(templates, template), None, "<|endoftext|>")
    tok = load_tokenizer(str(write_case(tmp_path, case)))
    assert not tok.family.has_headers
    assert tok.encode_chat(DIALOG) == tok.hf.apply_chat_template(DIALOG, return_dict=False)


@pytest.mark.parametrize("template", ["{{ 1 / 0 }}", "{% for %}", "{{ raise_exception('no') }}"])
def test_a_broken_template_says_nothing_and_writes_nothing(tmp_path, template: str) -> None:
    case = Case("GPT2", template, None, "<|endoftext|>")
    tok = load_tokenizer(str(write_case(tmp_path, case)))
    assert tok.family == FAMILIES["GPT2"]
    with pytest.raises(DataError, match="the chat template refuses the chat: "):
        tok.encode_chat(DIALOG)


def test_without_any_sign_of_an_end_families_are_listed() -> None:
    with pytest.raises(TokenizerError, match="source=NAME.*GPT2.*Gemma2.*TinyLlama"):
        load_tokenizer(str(GOLDEN / "bpe_a"))


REAL = {
    "gpt2": ("GPT2", ()),
    "llama2": ("TinyLlama", ()),
    "llama3": ("Llama3", (EOS,)),
    "gemma2": ("Gemma2", ()),
    "qwen2_5": ("Qwen2", (EOS,)),
    "mistral_nemo": ("Mistral", ()),
}


@pytest.mark.parametrize("name", REAL)
def test_real_tokenizers(name: str) -> None:
    if "TOKENKIT_TOKENIZERS" not in os.environ:
        pytest.skip("TOKENKIT_TOKENIZERS is not set")
    tok = load_tokenizer(f"{os.environ['TOKENKIT_TOKENIZERS']}/{name}")
    family, differs = REAL[name]
    expected = FAMILIES[family].replacements
    assert tuple(m for m in expected if tok.family.replacements[m] != expected[m]) == differs
    if not (tok.family.has_headers and tok.hf.chat_template):
        return
    dialog = [{"role": "system", "content": "Be brief."}, *DIALOG]
    expected_ids = tok.hf.apply_chat_template(dialog, return_dict=False)
    marked = messages_to_markers(dialog)
    if name == "llama3":  # this one always opens the next turn
        marked += "<|<start_header>|><|<assistant_name>|><|<end_header>|>"
    assert np.array_equal(tok.encode(marked), expected_ids)
