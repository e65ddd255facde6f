"""Specs: everything that is legal parses, everything else says which part is wrong."""

from __future__ import annotations

import pytest

from tokenkit.errors import TokenizerError
from tokenkit.tokenizers import TokenizerSpec, parse_spec


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("gpt2", TokenizerSpec("gpt2")),
        ("org/name:source=Qwen2", TokenizerSpec("org/name", "Qwen2")),
        (
            "org/name:target=Llama3:source=Qwen2:conversion=byte",
            TokenizerSpec("org/name", "Qwen2", "Llama3", "byte"),
        ),
        (r"C:\models\x", TokenizerSpec(r"C:\models\x")),
        (r"C:\a=b\x:source=GPT2", TokenizerSpec(r"C:\a=b\x", "GPT2")),
        ("D:/models/x:source=GPT2", TokenizerSpec("D:/models/x", "GPT2")),
        ("/runs/lr=3/tok:source=GPT2", TokenizerSpec("/runs/lr=3/tok", "GPT2")),
        (
            "org/name@v1.0:source=Gemma2",
            TokenizerSpec("org/name", "Gemma2", revision="v1.0"),
        ),
        ("org/name@refs/pr/3", TokenizerSpec("org/name", revision="refs/pr/3")),
        ("gpt2@main", TokenizerSpec("gpt2", revision="main")),
        ("/folder@home/tok", TokenizerSpec("/folder@home/tok")),
        ("  gpt2:source=GPT2\n", TokenizerSpec("gpt2", "GPT2")),
    ],
)
def test_parses(spec: str, expected: TokenizerSpec) -> None:
    parsed = parse_spec(spec)
    assert parsed == expected
    assert parse_spec(str(parsed)) == parsed


def test_existing_folder_may_have_any_name(tmp_path) -> None:
    for name in ("a:b", "me@home", "x y=z"):
        (tmp_path / name).mkdir()
        assert parse_spec(f"{tmp_path / name}:source=GPT2").path == str(tmp_path / name)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("", "no path"),
        (":source=GPT2", "no path"),
        ("org/name:Llama3", "part 'Llama3' is not of the form key=value"),
        ("org/name:", "part '' is not of the form"),
        ("org/name:source", "part 'source' is not of the form"),
        ("org/name:sorce=GPT2", "unknown key 'sorce' in part 'sorce=GPT2'; did you mean 'source'"),
        ("org/name:source=", "part 'source=' has no value"),
        ("org/name:source=GPT2:source=Qwen2", "'source' is given twice"),
        ("org/name:source=Lama3", "source: unknown family 'Lama3'; did you mean 'Llama3'"),
        ("org/name:source=GPT2:target=Gema2", "target: unknown family 'Gema2'"),
        ("org/name:conversion=bytes", "unknown conversion 'bytes'; did you mean 'byte'"),
        (3, "must be a string, not 3"),
    ],
)
def test_refuses(spec, message: str) -> None:
    with pytest.raises(TokenizerError, match=message.replace("(", r"\(")) as caught:
        parse_spec(spec)
    assert "\n" not in str(caught.value)
