"""Rows: what is read, what is refused, and how the refusal names the place."""

from __future__ import annotations

import json
import re

import pytest

from tokenkit.data.read_row import RowFormat, plain_text, read_row
from tokenkit.errors import ConfigError, DataError
from tokenkit.tokenizers import Conversation, Document

WHERE = "file.jsonl:7"
USER = {"role": "user", "content": "Hi."}


def read(row, **names):
    return read_row(row, WHERE, RowFormat(**names))


def test_texts_are_documents_and_messages_conversations():
    found = read({"text": "Hi."})
    assert found == Document("Hi.", bos=True, eos=True) and found.where == WHERE
    found = read({"messages": [USER]})
    assert found == Conversation([USER]) and found.where == WHERE
    assert read({"text": "no", "messages": [USER]}) == Conversation([USER])


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("direct_encode", Document("Hi.", True, True)),
        ("direct_encode_no_force_eos", Document("Hi.", True, False)),
        ("direct_encode_no_force_bos", Document("Hi.", False, True)),
        ("direct_encode_no_force_bos_no_force_eos", Document("Hi.", False, False)),
        ("surround_instruct", Conversation([USER], open=True)),
    ],
)
def test_text_modes(mode, expected):
    assert read({"text": "Hi."}, text_mode=mode) == expected
    assert read({"messages": [USER]}, text_mode=mode) == Conversation([USER])


def test_an_unknown_text_mode_is_named():
    with pytest.raises(ConfigError, match="unknown chat mode 'direct'.*direct_encode"):
        read({"text": "Hi."}, text_mode="direct")


def test_tools_and_options_are_read_as_they_are_or_as_json():
    tools = [{"type": "function", "function": {"name": "f"}}]
    options = {"enable_thinking": False}
    expected = Conversation([USER], tools, options)
    for as_column in (lambda value: value, json.dumps):
        row = {"tools": as_column(tools), "chat_template_kwargs": as_column(options)}
        assert read({"messages": [USER], **row}) == expected
    empty = {"tools": "", "chat_template_kwargs": None}
    assert read({"messages": [USER], **empty}) == Conversation([USER])


def test_keys_that_tables_fill_with_none_are_left_out():
    arguments = {"city": None}
    call = {"function": {"name": "f", "arguments": arguments}, "id": None}
    turn = {"role": "assistant", "content": None, "tool_calls": [call]}
    (_, found) = read({"messages": [USER | {"name": None}, turn]}).messages
    expected = {"function": {"name": "f", "arguments": arguments}}
    assert found == {"role": "assistant", "tool_calls": [expected]}


def test_contents_may_be_lists_of_parts():
    parts = [{"type": "text", "text": "Hi."}, {"type": "text", "text": "Ho."}]
    row = {"messages": [{"role": "user", "content": parts}]}
    assert read(row) == Conversation(row["messages"])
    assert plain_text(row, WHERE, RowFormat()) == "Hi.\nHo."


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
    assert read(row) is None
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
        ({"messages": [USER, {"content": "Hi."}]}, "message 1: role is NoneType"),
        ({"messages": [{"role": ["user"], "content": "Hi."}]}, "message 0: role is list"),
        ({"messages": [{"role": "user", "content": None}]}, "message 0 needs .*'content'"),
        ({"messages": [{"role": "user", "content": 3}]}, "content is int, not a string or a list"),
        ({"messages": [USER], "tools": "{"}, "'tools' is a string, but no JSON"),
        ({"messages": [USER], "tools": {"a": 1}}, "'tools' is dict, not a list"),
        ({"messages": [USER], "chat_template_kwargs": "[1]"}, "kwargs' is list, not an object"),
        ({"text": "half \ud83d"}, "character 6 .*surrogate"),
        ({"messages": [{"role": "user", "content": "\ude00"}]}, "character 1 .*surrogate"),
    ],
)
@pytest.mark.parametrize("door", [read_row, plain_text])
def test_bad_rows_are_refused_by_place(door, row, says):
    with pytest.raises(DataError, match=f"^{re.escape(WHERE)}: .*{says}"):
        door(row, WHERE, RowFormat())
