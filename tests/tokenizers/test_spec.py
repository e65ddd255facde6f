"""The grammar of tokenizer specs."""

from __future__ import annotations

import pytest

from tokenkit.errors import TokenizerError
from tokenkit.tokenizers import TokenizerSpec, parse_spec


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("org/name", TokenizerSpec("org/name")),
        ("org/name@rev:source=Qwen2", TokenizerSpec("org/name@rev", "Qwen2")),
        (r"C:\models\x:source=GPT2", TokenizerSpec(r"C:\models\x", "GPT2")),
        ("c:/models/x", TokenizerSpec("c:/models/x")),
        ("./a:target=Llama3:source=Qwen2", TokenizerSpec("./a", "Qwen2", "Llama3")),
        ("a:source=Llama3:conversion=byte", TokenizerSpec("a", "Llama3", "", "byte")),
    ],
)
def test_parse(spec, expected):
    parsed = parse_spec(spec)
    assert parsed == expected
    assert parse_spec(str(parsed)) == parsed


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("a:source=Lama3", r"unknown family 'Lama3'; did you mean 'Llama3'"),
        ("a:sauce=Llama3", r"unknown key 'sauce'; did you mean 'source'"),
        ("a:source", r"'source' is not of the form key=value"),
        ("a:source=", r"'source=' is not of the form key=value"),
        ("a:conversion=bytes", r"unknown conversion 'bytes'; did you mean 'byte'"),
        ("a:source=GPT2:source=Qwen2", r"'source' is given twice"),
        (":source=GPT2", r"before ':' is missing"),
    ],
)
def test_malformed(spec, says):
    with pytest.raises(TokenizerError, match=says):
        parse_spec(spec)
