"""Rows: what is read, what is refused, and how the refusal names the place."""

from __future__ import annotations

import re

import pytest

from tokenkit.data.rows import RowFormat, marked_text, plain_text
from tokenkit.errors import DataError

WHERE = "file.jsonl:7"
USER = {"role": "user", "content": "Hi."}


def test_text_and_messages_get_markers():
    assert marked_text({"text": "Hi."}, WHERE, RowFormat()) == "<|<bos>|>Hi.<|<eos>|>"
    turn = "<|<start_header>|><|<user_name>|><|<end_header>|>Hi.<|<eot>|>"
    assert marked_text({"messages": [USER]}, WHERE, RowFormat()) == f"<|<bos>|>{turn}"
    assert marked_text({"text": "no", "messages": [USER]}, WHERE, RowFormat()).endswith(turn)
    surround = RowFormat(text_mode="surround_instruct")
    assert marked_text({"text": "Hi."}, WHERE, surround).startswith(f"<|<bos>|>{turn}")


def test_plain_text_joins_turns():
    messages = [USER, {"role": "assistant", "content": "Ho."}]
    assert plain_text({"messages": messages}, WHERE, RowFormat()) == "Hi.\nHo."
    assert plain_text({"text": " Hi. "}, WHERE, RowFormat()) == " Hi. "


def test_fields_have_the_names_of_the_config():
    named = RowFormat(text_field="content", messages_field="turns")
    assert plain_text({"content": "Hi.", "text": 3}, WHERE, named) == "Hi."
    assert plain_text({"turns": [USER]}, WHERE, named) == "Hi."
    with pytest.raises(DataError, match=r"neither 'content' nor 'turns'.*it has text.*text_field"):
        plain_text({"text": "Hi."}, WHERE, named)


@pytest.mark.parametrize(
    "row",
    [
        {"text": ""},
        {"text": " \n\t"},
        {"messages": []},
        {"messages": [{"role": "user", "content": ""}]},
        {"text": None, "messages": []},
        {"text": "", "messages": []},
    ],
)
def test_rows_that_say_nothing(row):
    assert marked_text(row, WHERE, RowFormat()) == ""
    assert plain_text(row, WHERE, RowFormat()) == ""


def test_text_beside_an_empty_conversation_is_read():
    assert plain_text({"text": "Hi.", "messages": []}, WHERE, RowFormat()) == "Hi."


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("Hi.", "must be an object, not str"),
        (["Hi."], "must be an object, not list"),
        ({}, "neither 'text' nor 'messages'.*nothing"),
        ({"txt": "Hi."}, "neither 'text' nor 'messages'.*it has txt"),
        ({"text": None}, "neither 'text' nor 'messages'"),
        ({"text": 3}, "'text' is int, not a string"),
        ({"text": 3, "messages": [USER]}, "'text' is int, not a string"),
        ({"messages": "Hi."}, "'messages' must be a list of objects"),
        ({"messages": {"role": "user", "content": "Hi."}}, "'messages' must be a list of objects"),
        ({"messages": ["Hi."]}, "'messages' must be a list of objects"),
        ({"messages": [{"role": "narrator", "content": "Hi."}]}, "narrator.*assistant"),
        ({"messages": [USER, {"content": "Hi."}]}, "message 1: role is NoneType"),
        ({"messages": [{"role": ["user"], "content": "Hi."}]}, "message 0: role is list"),
        ({"messages": [{"role": "user", "content": None}]}, "not NoneType"),
        ({"messages": [{"role": "user", "content": ["Hi."]}]}, "must be text, not list"),
        ({"text": "half \ud83d"}, "character 6 .*surrogate"),
        ({"messages": [{"role": "user", "content": "\ude00"}]}, "character 1 .*surrogate"),
    ],
)
@pytest.mark.parametrize("read", [marked_text, plain_text])
def test_bad_rows_are_refused_by_place(read, row, says):
    with pytest.raises(DataError, match=f"^{re.escape(WHERE)}: .*{says}"):
        read(row, WHERE, RowFormat())
