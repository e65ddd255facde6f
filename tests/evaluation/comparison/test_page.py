"""The page: whole, escaped, and without a request to anywhere."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenkit.evaluation.comparison.axis import Axis, short_number
from tokenkit.evaluation.comparison.markdown import markdown
from tokenkit.evaluation.comparison.markup import Safe, tag
from tokenkit.evaluation.comparison.page import page

EVIL = "<script>alert('x')</script>\x00 | `a` & \"b\""


def a_report(names=("teacher", "student"), **changes) -> dict:
    """A report with something in each part."""

    def each(value):
        return {name: value for name in names}

    values = {"value": 1.25, "stderr": 0.5}
    rows = {
        "rows": 9, "barely": 4, "rows_in_data": 3, "barely_in_data": 1, "median_change": 0.5,
        "histogram": {"all": [0, 4, 0, 0, 2, 1, 2], "in_data": [0] * 7},
        "least": [{"token": EVIL, "id": 3, "change": 0.0, "cosine": 1.0, "count": 2}],
    }  # fmt: skip
    report = {
        "teacher": names[0],
        "models": each(
            {"model": "m", "tokenizer": "t", "tokens": 9, "parameters": 12345, "run": None}
        ),
        "traits": each({"Digits": EVIL}),
        "warnings": [{"trait": "Digits", "models": [names[-1]], "text": EVIL, "why": EVIL}],
        "bits_per_byte": {
            "file": {
                "file": EVIL, "documents": 2, "bytes": 99,
                "left_out": [{"document": 3, "begins": EVIL}],
                "models": each({**values, "minus_teacher": values, "bytes_per_token": 2.0}),
            }
        },
        "kept": {
            "texts": 2, "bytes": 9, "left_out": 1, "prompts": 0,
            "models": each({**values, "minus_teacher": values}),
            "written": [{"prompt": "", "text": EVIL}],
        },
        "tasks": {"task/acc": each({"value": 0.5, "stderr": None})},
        "cost": each(
            {"bytes_per_token": 2.0, "tokens_per_second": 3.0, "bytes_per_second": 6.0,
             "cache_bytes_per_token": 2048.0, "cache_bytes_per_byte": None}
        ),
        "samples": [{"prompt": EVIL, "texts": each(EVIL)}],
        "rows": {names[0]: None, names[-1]: {"input": rows}},
        "curves": {names[-1]: {"loss": [[1, 2.0], [2, 1.0]], "lr": [[1, 0.0]]}},
        "settings": {"max_bytes": 64, "device": "cpu", "own_tokens": 3, "sample_tokens": 4,
                     "seed": 0},
    }  # fmt: skip
    return {**report, **changes}


@pytest.mark.parametrize(
    "report",
    [
        a_report(),
        a_report(("alone",), warnings=[], kept=None),
        a_report(tasks={}, samples=[], curves={}, rows={"teacher": None, "student": None}),
        a_report(tuple(f"m{k}" for k in range(11))),
    ],
)
def test_the_page_is_whole_and_asks_for_nothing(report):
    made = page(report)
    body = ElementTree.fromstring(made.removeprefix("<!doctype html>\n"))
    assert [child.tag for child in body] == ["head", "body"]
    assert not list(body.iter("script")) and "<script>alert" not in made
    for element in body.iter():
        assert not {"src", "href", "srcset", "data", "style"} & set(element.attrib)
    style = body.find("head/style").text
    assert not re.search(r"url\(|@import|http", style)
    drawings = list(body.iter("svg"))
    assert drawings and all(drawing.find("title").text for drawing in drawings)
    words = "".join(body.itertext())
    for name in report["models"]:
        assert name in words


def test_plots_stay_inside_their_drawing():
    body = ElementTree.fromstring(page(a_report()).removeprefix("<!doctype html>\n"))
    for drawing in body.iter("svg"):
        _, _, width, height = map(float, drawing.get("viewBox").split())
        for element in drawing.iter():
            for key in ("x", "x1", "x2", "cx"):
                assert 0 <= float(element.get(key, 0)) <= width
            for key in ("y", "y1", "y2", "cy"):
                assert 0 <= float(element.get(key, 0)) <= height


def test_markdown_says_what_the_page_does():
    made = markdown(a_report())
    assert "| file (2 documents) | 1.2500 ± 0.5000 |" in made
    assert "<script>" not in made and "left out" in made.lower()
    for line in made.splitlines():
        if line.startswith("|"):
            assert line.endswith("|")
    tables = re.findall(r"(?:^\|.*\n)+", made, re.MULTILINE)
    for table in tables:
        cells = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(cells) == 1


@given(st.text(max_size=30), st.text(max_size=30))
def test_what_is_not_markup_is_escaped(words, value):
    made = tag("p", words, tag("b", value), title=value)
    if any(0xD800 <= ord(c) <= 0xDFFF or ord(c) in (0xFFFE, 0xFFFF) for c in words + value):
        return
    found = ElementTree.fromstring(made)
    pictures = str.maketrans({chr(c): chr(0x2400 + c) for c in range(32) if chr(c) not in "\t\n"})
    pictures[127] = "\u2421"
    assert (found.text or "") == words.translate(pictures)
    assert (found.find("b").text or "") == value.translate(pictures)
    assert tag("i", Safe("<b/>")) == "<i><b/></i>"


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=5))
def test_ticks_are_within_the_axis(values):
    axis = Axis.over(values, 10, 300)
    assert all(10 <= axis(value) <= 300 for value in values)
    ticks = axis.ticks()
    assert len(ticks) <= 7 and all(10 - 0.01 <= axis(tick) <= 300.01 for tick in ticks)


def test_values_that_are_all_the_end_of_the_axis():
    """As the distance from the teacher is 0 for models that all equal it."""
    axis = Axis.over([0.0, 0.0], 10, 300, [0.0])
    assert axis(0.0) == 10 and axis.ticks()


def test_numbers_of_ticks():
    shown = [short_number(value) for value in (0, 0.25, 3.0, 1500, 3e-5, 250000)]
    assert shown == ["0", "0.25", "3", "1,500", "3.0e-5", "2.5e5"]
