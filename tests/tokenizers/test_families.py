"""The table of families."""

from __future__ import annotations

import pickle

import pytest

from tokenkit.errors import TokenizerError
from tokenkit.tokenizers.alphabet import from_alphabet, literal_bytes, to_alphabet
from tokenkit.tokenizers.families import FAMILIES, MARKERS, get_family


def test_alphabet_is_a_bijection_on_bytes() -> None:
    every = bytes(range(256))
    assert from_alphabet(to_alphabet(every)) == literal_bytes(to_alphabet(every)) == every
    assert len(set(to_alphabet(every))) == 256
    assert to_alphabet(" é\n".encode()) == "ĠÃ©Ċ"
    assert literal_bytes("<｜User｜>") == "<｜User｜>".encode()
    with pytest.raises(ValueError, match="byte alphabet"):
        from_alphabet("｜")


def test_alphabet_equals_the_byte_level_pre_tokenizers() -> None:
    from tokenizers.pre_tokenizers import ByteLevel

    splitter = ByteLevel(add_prefix_space=False, use_regex=False)
    for text in ("\x00 \t\n\r\x7f\xa0\xad", "日本 👍 naïve"):
        assert "".join(t for t, _ in splitter.pre_tokenize_str(text)) == to_alphabet(text.encode())


@pytest.mark.parametrize("family", FAMILIES.values(), ids=lambda f: f.name)
def test_entries_are_whole_and_cannot_be_changed(family) -> None:
    assert tuple(family.replacements) == MARKERS
    assert family.replacements["<|<pad>|>"] and family.replacements["<|<eos>|>"]
    with pytest.raises(TypeError):
        family.replacements["<|<bos>|>"] = ("x",)
    assert pickle.loads(pickle.dumps(family)) == family


def test_unknown_names_list_the_known() -> None:
    with pytest.raises(TokenizerError, match="did you mean 'Qwen2'"):
        get_family("Qwen22")
