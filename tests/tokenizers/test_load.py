"""Loading: byte mappings of every kind, conversions, and what is refused."""

from __future__ import annotations

import json
import unicodedata

import numpy as np
import pytest
from transformers import AutoTokenizer

from tests.tokenizers.samples import GOLDEN, NAMES, prefixed, read_json, write_folder
from tokenkit.errors import TokenizerError
from tokenkit.log import logger
from tokenkit.tokenizers import Document, encode_rows, load_tokenizer, warn_of_missing_bos


@pytest.fixture
def warnings(caplog):
    """The package's log, whose own handler may have been set by another test."""
    logger.addHandler(caplog.handler)
    yield caplog
    logger.removeHandler(caplog.handler)


@pytest.mark.parametrize("name", NAMES)
def test_tables_are_consistent(tok, name: str) -> None:
    t = tok(name)
    assert len(t) == len(t.tokens) == max(t.hf.get_vocab().values()) + 1
    assert t.byte_lengths.dtype == np.int32 and t.byte_lengths.shape == (len(t),)
    for token, i in t.ids.items():
        assert t.tokens[i] == token
    special = {t.ids[s] for s in t.family.special_tokens if s in t.ids}
    assert t.special_ids == special and not t.byte_lengths[list(special)].any()
    for i in range(len(t)):
        assert i in special or t.byte_lengths[i] == len(t.token_bytes[i])
    # The byte strings are what Hugging Face itself decodes.
    for i in range(0, len(t), 37):
        if not t.family.name == "TinyLlama" and "�" not in (text := t.hf.decode([i])):
            assert t.token_bytes[i].decode().strip() == text.strip()


def test_real_pieces_win_over_byte_fallback(tok) -> None:
    t = tok("gemma2")
    vocabulary = t.hf.get_vocab()
    assert t.tokens[vocabulary["<0x0A>"]] == "Ċ" == t.tokens[t.ids["Ċ"]]
    assert t.tokens[vocabulary["<0x41>"]] == "A"
    assert t.ids["A"] == vocabulary.get("A", vocabulary["<0x41>"])
    assert t.tokens[vocabulary["<0xC3>"]] == "Ã" and t.ids["Ã"] == vocabulary["<0xC3>"]


def test_two_specs_of_one_folder_share_nothing() -> None:
    plain = load_tokenizer(f"{GOLDEN}/bpe_a:source=Llama3")
    size = len(plain)
    other = load_tokenizer(f"{GOLDEN}/bpe_a:source=Llama3:target=Gemma2", tokens_to_add=("<x>",))
    bytes_ = load_tokenizer(f"{GOLDEN}/bpe_a:source=Llama3:conversion=byte")
    assert len(plain) == len(plain.hf) == size and len(other) > size > len(bytes_)
    assert "<bos>" not in plain.ids and plain.hf.bos_token == "<|begin_of_text|>"
    assert (
        plain.encode("<x> hi").tolist()
        == load_tokenizer(f"{GOLDEN}/bpe_a:source=Llama3").encode("<x> hi").tolist()
    )


def test_added_tokens_follow_the_familys() -> None:
    t = load_tokenizer(f"{GOLDEN}/bpe_a:source=Llama3", tokens_to_add=("<think>", "</think>"))
    assert [t.ids[s] for s in (*t.family.special_tokens, "<think>", "</think>")] == list(
        range(1500, 1507)
    )
    assert t.encode("a<think>b").tolist() == [*t.encode("a"), 1505, *t.encode("b")]


def test_ids_without_token(tmp_path) -> None:
    data = read_json("bpe_a")
    last = max(data["model"]["vocab"], key=data["model"]["vocab"].get)
    data["model"]["vocab"][last] += 10
    t = load_tokenizer(f"{write_folder(tmp_path, data)}:source=GPT2")
    assert len(t) == max(t.ids.values()) + 1 > len(t.ids)
    holes = [i for i, s in enumerate(t.tokens) if not s]
    assert holes and not t.byte_lengths[holes].any() and not t.space_mask()[holes].any()


def test_missing_template_word_is_spelt_out(tmp_path, warnings) -> None:
    data = read_json("bpe_a")
    model = data["model"]
    model["merges"] = [m for m in model["merges"] if "assistant" not in "".join(m)]
    kept = [token for token in model["vocab"] if "assistant" not in token]
    model["vocab"] = {token: i for i, token in enumerate(kept)}
    t = load_tokenizer(f"{write_folder(tmp_path, data)}:source=Llama3")
    assert "has no single token for 'assistant'" in warnings.text
    name = t.marker_ids["<|<assistant_name>|>"]
    assert len(name) > 1 and t.decode(name) == "assistant"


def test_added_tokens_with_spaces_are_byteified(tmp_path) -> None:
    """GPT-NeoX and Phi add runs of spaces as tokens of their own."""
    t = load_tokenizer(f"{GOLDEN}/bpe_a:source=GPT2", tokens_to_add=("  \n", "日本"))
    assert t.tokens[-2:] == ["ĠĠĊ", "æĹ¥æľ¬"]
    assert t.byte_lengths[-2:].tolist() == [3, 6] and t.space_mask("space")[-2]
    assert t.decode(t.encode("x  \n日本")) == "x  \n日本"


def test_added_token_must_not_clash_with_a_byte() -> None:
    """A byte-level vocabulary writes byte 0xE9 as "é"; text "é" is two other bytes."""
    with pytest.raises(TokenizerError, match="'é' cannot be added"):
        load_tokenizer(f"{GOLDEN}/bpe_a:source=GPT2", tokens_to_add=("é",))


@pytest.mark.parametrize("form", ["NFC", "NFD", "NFKC", "NFKD"])
def test_a_lone_unicode_normaliser_is_kept(tmp_path, form: str) -> None:
    data = read_json("bpe_b")
    data["normalizer"] = {"type": form}
    t = load_tokenizer(f"{write_folder(tmp_path, data)}:source=Qwen2")
    plain = AutoTokenizer.from_pretrained(tmp_path)
    text = "e\u0301 \u00e9 \ufb01"
    assert t.normal_form == form
    assert t.encode_text(text) == plain(text, add_special_tokens=False)["input_ids"]
    assert t.decode(t.encode(text)) == unicodedata.normalize(form, text)
    (row,) = encode_rows(t, [Document(text, bos=False, eos=False)])
    assert row.data == unicodedata.normalize(form, text).encode() and row.begin.min() == 0
    assert row.end[-1] == len(row.data)


def test_without_a_normaliser_text_is_as_it_is(tok) -> None:
    decomposed = "e\u0301"
    assert tok("qwen2").normal_form == "" and tok("gemma2").normal_form == ""
    assert tok("qwen2").decode(tok("qwen2").encode(decomposed)) == decomposed


def test_missing_bytes_are_reported(tmp_path, warnings) -> None:
    data = read_json("bpe_b")
    lost = [k for k in data["model"]["vocab"] if "\u0120" in k]
    data["model"]["merges"] = [m for m in data["model"]["merges"] if "\u0120" not in "".join(m)]
    vocabulary = [k for k in data["model"]["vocab"] if k not in lost]
    data["model"]["vocab"] = {k: i for i, k in enumerate(vocabulary)}
    load_tokenizer(f"{write_folder(tmp_path, data)}:source=GPT2")
    assert "no token for 1 of the 256 bytes (the first is 0x20)" in warnings.text


def broken(kind: str) -> dict:
    """A tokenizer.json that cannot be inverted to bytes."""
    data = read_json("bpe_b")
    if kind == "WordPiece":
        vocabulary = {"[UNK]": 0, "a": 1, "##b": 2}
        data["model"] = {"type": "WordPiece", "vocab": vocabulary, "unk_token": "[UNK]"}
        data["model"] |= {"continuing_subword_prefix": "##", "max_input_chars_per_word": 9}
        data["pre_tokenizer"] = {"type": "BertPreTokenizer"}
        data["decoder"] = {"type": "WordPiece", "prefix": "##", "cleanup": True}
    elif kind == "WordLevel":
        data["model"] = {"type": "WordLevel", "vocab": {"[UNK]": 0}, "unk_token": "[UNK]"}
    elif kind == "plain BPE":
        data["pre_tokenizer"], data["decoder"] = {"type": "Whitespace"}, None
    elif kind == "no byte fallback":
        data = read_json("spm")
        data["model"]["byte_fallback"] = False
    elif kind == "two Unicode forms":
        steps = [{"type": "NFC"}, {"type": "NFD"}]
        data["normalizer"] = {"type": "Sequence", "normalizers": steps}
    else:
        data["normalizer"] = {
            "Lowercase": {"type": "Lowercase"},
            "Replace": {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "},
        }[kind]
    return data


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("WordPiece", "its model is WordPiece"),
        ("WordLevel", "its model is WordLevel"),
        ("plain BPE", "neither byte-level nor SentencePiece-style"),
        ("no byte fallback", "no byte fallback"),
        ("two Unicode forms", r"normalises text \(NFC\)"),
        ("Lowercase", r"normalises text \(Lowercase\)"),
        ("Replace", r"normalises text \(Replace .* by ' '\)"),
    ],
)
def test_refuses_what_loses_bytes(tmp_path, kind: str, message: str) -> None:
    folder = write_folder(tmp_path / "tok", broken(kind))
    with pytest.raises(TokenizerError, match=message) as caught:
        load_tokenizer(f"{folder}:source=GPT2")
    assert str(folder) in str(caught.value)


def test_refuses_missing_and_damaged_folders(tmp_path) -> None:
    with pytest.raises(TokenizerError, match="does not exist"):
        load_tokenizer(f"{tmp_path}/nothing/here:source=GPT2")
    (tmp_path / "empty").mkdir()
    with pytest.raises(TokenizerError, match="cannot load tokenizer"):
        load_tokenizer(f"{tmp_path}/empty:source=GPT2")
    folder = write_folder(tmp_path / "damaged", read_json("bpe_a"))
    (folder / "tokenizer.json").write_text('{"version": "1.0", "model"')
    with pytest.raises(TokenizerError, match="cannot load tokenizer") as caught:
        load_tokenizer(f"{folder}:source=GPT2")
    assert "\n" not in str(caught.value)
    with pytest.raises(TokenizerError, match="cannot load tokenizer 'no-such-org/no-such-name'"):
        load_tokenizer("no-such-org/no-such-name:source=GPT2")


def test_refuses_an_underivable_family() -> None:
    with pytest.raises(TokenizerError, match="cannot tell the family.*available: GPT2"):
        load_tokenizer(str(GOLDEN / "bpe_a"))
    assert (
        load_tokenizer(str(GOLDEN / "spm") + ":target=Qwen2:source=Gemma2").family.name == "Qwen2"
    )


def test_runs_no_code_of_the_folder(tmp_path) -> None:
    folder = write_folder(
        tmp_path / "evil",
        read_json("bpe_a"),
        {"auto_map": {"AutoTokenizer": [None, "evil.Evil"]}, "tokenizer_class": "Evil"},
    )
    proof = tmp_path / "proof"
    (folder / "evil.py").write_text(f"open({str(proof)!r}, 'w')\nclass Evil: pass\n")
    load_tokenizer(f"{folder}:source=GPT2")
    assert not proof.exists()


def test_prefix_variants_are_recognised(tmp_path) -> None:
    for kind in ("prepend", "metaspace"):
        folder = write_folder(tmp_path / kind, prefixed(kind))
        t = load_tokenizer(f"{folder}:source=TinyLlama")
        assert t.kind == "sentencepiece" and t.adds_prefix_space
        assert t.tokens[t.encode("lines")[0]][0] == "Ġ"
    plain = load_tokenizer(f"{GOLDEN}/spm:source=Gemma2")
    assert plain.kind == "sentencepiece" and not plain.adds_prefix_space


def test_truncation_and_padding_of_the_file_are_switched_off(tmp_path) -> None:
    data = read_json("bpe_a")
    data["truncation"] = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst",
                          "stride": 0}  # fmt: skip
    data["padding"] = {"strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": None,
                       "pad_id": 0, "pad_type_id": 0, "pad_token": "!"}  # fmt: skip
    t = load_tokenizer(f"{write_folder(tmp_path, data)}:source=GPT2")
    expected = load_tokenizer(f"{GOLDEN}/bpe_a:source=GPT2").encode("one two three four").tolist()
    assert len(expected) > 3 and t.encode("one two three four").tolist() == expected


def test_prebyteified_reads_the_vocabulary_as_it_is(tmp_path) -> None:
    data = read_json("bpe_a")
    data["decoder"] = data["pre_tokenizer"] = None
    folder = write_folder(tmp_path, data)
    with pytest.raises(TokenizerError, match="neither byte-level"):
        load_tokenizer(f"{folder}:source=Llama3")
    t = load_tokenizer(f"{folder}:source=Llama3:conversion=prebyteified")
    assert t.tokens == load_tokenizer(f"{GOLDEN}/bpe_a:source=Llama3").tokens


def test_byte_conversion_has_bytes_then_template_tokens(tok) -> None:
    t = tok("gemma_bytes")
    assert t.tokens[256:] == sorted(t.family.template_tokens() - set(t.tokens[:256]))
    assert t.encode("aé<eos>").tolist() == [97, 195, 169, t.eos_id]
    reloaded = json.loads(t.hf.backend_tokenizer.to_str())
    assert {a["content"] for a in reloaded["added_tokens"]} <= set(t.family.special_tokens)


def test_a_target_without_bos_is_warned_about(tok, warnings) -> None:
    warn_of_missing_bos(tok("llama3"), tok("llama3_of_b"))
    warn_of_missing_bos(tok("gpt2"), tok("llama3"))
    assert "attention sink" not in warnings.text
    warn_of_missing_bos(tok("llama3"), tok("qwen2"))
    assert "attention sink" in warnings.text and "':target=Llama3'" in warnings.text


def test_refuses_tokenizers_without_a_fast_backend(tmp_path) -> None:
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "ByT5Tokenizer"}')
    with pytest.raises(TokenizerError, match=r"has no fast backend \(it is a ByT5Tokenizer\)"):
        load_tokenizer(f"{tmp_path}:source=GPT2")


def test_tokens_that_are_not_text_align_and_are_spelt(tok) -> None:
    """Half a character is an ordinary token: three bytes of one may be three tokens."""
    t = tok("llama3")
    halves = [i for i, raw in enumerate(t.token_bytes) if raw and raw[0] >= 0x80]
    assert halves and t.decode(t.encode("日")) == "日"
    assert "\N{REPLACEMENT CHARACTER}" in t.decode(halves[:1])
    assert t.tokenize_bytes(t.tokens[halves[0]]) == []
