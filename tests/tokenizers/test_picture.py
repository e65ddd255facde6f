"""The picture of an aligned pair: valid SVG that holds every token, on two rows."""

from __future__ import annotations

from xml.etree import ElementTree

from tests.launch import SPEC_A, SPEC_B
from tokenkit.tokenizers import align_pair, load_tokenizer
from tokenkit.tokenizers.inspect import visible
from tokenkit.tokenizers.picture import WIDTH, svg

TEXT = "Tokens & <bytes>: naïve, 日本 and a text that is too long for one line of the picture."


def parts(drawn: str, kind: str):
    return ElementTree.fromstring(drawn).iter(f"{{http://www.w3.org/2000/svg}}{kind}")


def test_every_token_is_there_and_inside():
    pair = align_pair(load_tokenizer(SPEC_A), load_tokenizer(SPEC_B), TEXT)
    drawn = pair._repr_svg_()
    tokens = [node.text for node in parts(drawn, "text") if node.get("text-anchor") == "middle"]
    expected = [
        visible(side.data[begin:end])
        for side in (pair.teacher, pair.student)
        for begin, end in side.byte_ranges.tolist()
    ]
    assert sorted(tokens) == sorted(expected)
    for box in parts(drawn, "rect"):
        assert 0 <= float(box.get("x", 0)) <= WIDTH - float(box.get("width")) + 0.1
    names = [node.text for node in parts(svg(pair, ("A", "B")), "text")][:2]
    assert names == ["A", "B"]
