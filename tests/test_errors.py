"""Messages fit on a line."""

from __future__ import annotations

import pytest

from tokenkit.errors import LONGEST, one_line


def test_short_messages_stay():
    assert one_line("a  message\n of two lines") == "a message of two lines"
    path = "/" + "folder/" * 20 + "file.jsonl:3"
    assert one_line(f"{path}: wrong") == f"{path}: wrong"


@pytest.mark.parametrize("value", ["x" * 26_000, "x " * 13_000, "/x" * 200, "é" * 500])
def test_long_ones_keep_beginning_and_end(value):
    line = one_line(f"some.key = '{value}': expected one of a, b")
    assert len(line) <= LONGEST
    assert line.startswith("some.key = '") and line.endswith("expected one of a, b")


def test_long_paths_keep_their_names():
    paths = [f"/{letter}" + "/some/folder" * 20 + f"/{letter}.json" for letter in "ab"]
    line = one_line(f"{paths[0]} was made with {paths[1]} and is another: make them equal")
    assert "/a.json was made with" in line and "/b.json and is another: make them" in line
