"""What is printed about two tokenizations."""

from __future__ import annotations

import re

import numpy as np
import pytest

from tokenkit.errors import TokenizerError
from tokenkit.tokenizers.inspect import (
    COLOURS,
    UNALIGNED_COLOUR,
    compare,
    format_table,
    marker_table,
    render,
    report,
    text_table,
    visible,
    vocabulary_table,
)

TEXT = "def tokenize(self, value):\n    return [value for item in self.names]  \n"


def values(table):
    return {name: pair for name, *pair in table}


def test_visible():
    assert visible(" é\t\n\r".encode()) == "␣é⇥↵␍"
    assert visible(b"\xf0\x9f") == "\\xf0\\x9f"
    assert visible("\x1b\u200b\u202e".encode()) == "\\u001b\\u200b\\u202e"


def chunks_in(shown):
    """The text of each chunk in brackets, tokens joined."""
    return [part.replace(" ", "") for part in re.findall(r"\[([^\[\]]*)\]", shown)]


@pytest.mark.parametrize("names", [("llama3", "qwen2"), ("gemma2", "llama3"), ("bytes", "gpt2")])
def test_both_sides_show_the_same_chunks(tok, names):
    text = TEXT.replace("[", "(").replace("]", ")")
    found = compare(*map(tok, names), text)
    shown = [chunks_in(render(side, colour=False)) for side in found.sides]
    assert shown[0] == shown[1] and len(shown[0]) == found.chunk_count
    assert "".join(shown[0]) == visible(text.encode())


def test_same_chunk_same_colour(tok):
    found = compare(tok("llama3"), tok("qwen2"), TEXT)
    codes = [re.findall("\x1b\\[([0-9;]+)m([^\x1b]*)", render(s, colour=True)) for s in found.sides]
    codes = [[(c, shown.replace(" ", "")) for c, shown in side if c != "0"] for side in codes]
    assert codes[0] == codes[1]
    assert [c for c, _ in codes[0]] == [COLOURS[k % len(COLOURS)] for k in range(len(codes[0]))]


def test_lines_end_where_the_text_does(tok):
    found = compare(tok("llama3"), tok("qwen2"), "one\ntwo\n")
    assert [line[-2] for line in render(found.sides[0], colour=False).splitlines()] == ["↵", "↵"]


def test_tokens_in_no_chunk_stand_out(tok):
    found = compare(tok("llama3"), tok("qwen2"), "<|<bos>|>Hi")
    first, second = found.sides
    assert render(first, colour=False).startswith("{<|begin_of_text|>}[")
    assert render(first, colour=True).startswith(f"\x1b[{UNALIGNED_COLOUR}m<|begin_of_text|>")
    assert not render(second, colour=False).startswith("{")
    assert values(text_table(found))["tokens in no chunk"] == ["1", "0"]
    assert values(text_table(found))["bytes of the text"] == ["2", "2"]


def test_text_statistics(tok):
    first, second = tok("llama3"), tok("qwen2")
    found = compare(first, second, TEXT)
    table = values(text_table(found))
    lengths = [len(t.encode(TEXT)) for t in (first, second)]
    ends = [set(np.cumsum(t.byte_lengths[t.encode(TEXT)]).tolist()) for t in (first, second)]
    chunks = len(ends[0] & ends[1])
    assert table["tokens"] == [str(n) for n in lengths]
    assert table["bytes per token"] == [f"{len(TEXT) / n:.3f}" for n in lengths]
    assert table["chunks"] == [str(chunks)] * 2
    assert table["tokens per chunk"] == [f"{n / chunks:.3f}" for n in lengths]
    assert table["bytes differ"] == ["no", "no"]


def test_space_chunks_are_words(tok):
    found = compare(tok("llama3"), tok("qwen2"), "one two three", kind="space")
    for side in found.sides:
        assert chunks_in(render(side, colour=False)) == ["one", "␣two", "␣three"]


def test_vocabulary_statistics(tok):
    first, second = tok("llama3"), tok("gemma2")
    table = values(vocabulary_table(first, second))
    shared = len({t for t in first.tokens if t} & {t for t in second.tokens if t})
    for k, t in enumerate((first, second)):
        assert table["family"][k] == t.family.name
        assert table["vocabulary rows"][k] == f"{len(t):,}"
        number, percent = table["in both"][k].split()
        assert number == f"{shared:,}"
        assert float(percent.strip("(%)")) == pytest.approx(
            100 * shared / len(set(t.tokens)), abs=0.1
        )


def test_markers_side_by_side(tok):
    table = values(marker_table(tok("qwen2"), tok("gpt2")))
    eot = tok("qwen2").marker_ids["<|<eot>|>"]
    assert table["eot"][0] == f"<|im_end|> ({eot[0]}) ↵ ({eot[1]})"
    assert table["start_header"][1] == "(none)"


def test_table_has_columns():
    lines = format_table(("a", "b", "c"), [("long name", "1", "2"), ("x", "333", "")]).splitlines()
    assert lines == ["a          b    c", "-" * 17, "long name  1    2", "x          333"]


def test_report_has_everything(tok):
    shown = report(compare(tok("llama3"), tok("qwen2"), TEXT), colour=False)
    assert str(tok("llama3").spec) in shown and "bytes per token" in shown and "eot" in shown


def test_text_without_tokens_is_refused(tok):
    with pytest.raises(TokenizerError, match="makes no token of the text"):
        compare(tok("llama3"), tok("qwen2"), "<|<bos>|>")
