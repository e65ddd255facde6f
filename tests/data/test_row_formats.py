"""Rows as common data sets have them."""

from __future__ import annotations

import json

import pytest

from tokenkit.data.read_row import RowFormat, plain_text, read_row
from tokenkit.data.row_formats import FORMATS
from tokenkit.errors import DataError
from tokenkit.tokenizers import Conversation, Document

WHERE = "file.jsonl:7"


def user(content):
    return {"role": "user", "content": content}


def assistant(content):
    return {"role": "assistant", "content": content}


def system(content):
    return {"role": "system", "content": content}


CALL = {"name": "weather", "arguments": {"city": "Rome"}}
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {}}}]


@pytest.mark.parametrize(
    ("row", "messages"),
    [
        # TRL: plain and conversational
        ({"prompt": "2+2?", "completion": "4."}, [user("2+2?"), assistant("4.")]),
        (
            {"prompt": [system("Be brief."), user("2+2?")], "completion": [assistant("4.")]},
            [system("Be brief."), user("2+2?"), assistant("4.")],
        ),
        # ShareGPT
        (
            {
                "id": 3,
                "conversations": [
                    {"from": "system", "value": "Be brief."},
                    {"from": "human", "value": "2+2?", "weight": None},
                    {"from": "gpt", "value": "4."},
                ],
            },
            [system("Be brief."), user("2+2?"), assistant("4.")],
        ),
        (
            {"conversations": [{"from": "human", "value": "Hi."}], "system": "Be kind."},
            [system("Be kind."), user("Hi.")],
        ),
        (
            {"conversations": [system("Be brief."), user("2+2?")], "system": "unused"},
            [system("Be brief."), user("2+2?")],
        ),
        (
            {
                "conversations": [
                    {"from": "human", "value": "Weather?"},
                    {"from": "function_call", "value": json.dumps(CALL)},
                    {"from": "observation", "value": "Sun."},
                ]
            },
            [
                user("Weather?"),
                {**assistant(""), "tool_calls": [{"type": "function", "function": CALL}]},
                {"role": "tool", "content": "Sun."},
            ],
        ),
        # Alpaca
        (
            {"instruction": "Add.", "input": "2 and 2", "output": "4."},
            [user("Add.\n\n2 and 2"), assistant("4.")],
        ),
        ({"instruction": "Hi.", "input": "", "output": "Ho."}, [user("Hi."), assistant("Ho.")]),
        ({"instruction": "Hi.", "output": "Ho."}, [user("Hi."), assistant("Ho.")]),
        (
            {"instruction": "Hi.", "output": "Ho.", "system": "Be kind."},
            [system("Be kind."), user("Hi."), assistant("Ho.")],
        ),
    ],
)
def test_formats_are_found_by_their_fields(row, messages):
    assert read_row(row, WHERE, RowFormat()) == Conversation(messages)


def test_tools_are_read_beside_every_format():
    turns = [{"from": "human", "value": "Weather?"}, {"from": "gpt", "value": "Sun."}]
    row = {"conversations": turns, "tools": json.dumps(TOOLS)}
    expected = Conversation([user("Weather?"), assistant("Sun.")], TOOLS)
    assert read_row(row, WHERE, RowFormat()) == expected
    messages = [user("Weather?"), {**assistant(""), "tool_calls": [{"function": CALL}]}]
    found = read_row({"messages": messages, "tools": TOOLS}, WHERE, RowFormat())
    assert found == Conversation(messages, TOOLS)


def test_what_data_names_comes_first():
    """Alpaca's own data set has a column of whole texts, too."""
    row = {"instruction": "Hi.", "output": "Ho.", "text": "### Hi.\nHo."}
    assert isinstance(read_row(row, WHERE, RowFormat()), Document)
    renamed = RowFormat(text_field="output")
    assert plain_text(row, WHERE, renamed) == "Ho."


def test_rows_of_tables_whose_other_columns_are_empty():
    row = {"text": None, "messages": None, "conversations": None, "prompt": "a", "completion": "b"}
    assert read_row(row, WHERE, RowFormat()) == Conversation([user("a"), assistant("b")])
    assert read_row({"prompt": "", "completion": " "}, WHERE, RowFormat()) is None


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"prompt": "a", "completion": "b", "conversations": []}, "'prompt' and 'conversations'"),
        ({"instruction": "a", "output": "b", "prompt": "c"}, "'prompt' and 'instruction'.*differ"),
        ({"prompt": "a"}, "has 'prompt', but no 'completion'"),
        ({"prompt": "a", "completion": ["b"]}, "'completion' is list, not a string"),
        ({"prompt": [user("a")], "completion": "b"}, "'prompt' is list, not a string"),
        ({"instruction": "a"}, "has 'instruction', but no 'output'"),
        ({"instruction": "a", "input": 3, "output": "b"}, "'input' is int, not a string"),
        ({"conversations": "a"}, "'conversations' must be a list"),
        ({"conversations": [{"from": "elf", "value": "a"}]}, "turn 0: 'from' is 'elf'.*human"),
        ({"conversations": [{"from": "human"}]}, "turn 0: 'value' is NoneType"),
        ({"conversations": [{"from": "function_call", "value": "{"}]}, "turn 0.*no JSON"),
        ({"conversations": [{"from": "function_call", "value": "{}"}]}, "turn 0.*'name'"),
    ],
)
def test_what_cannot_be_read(row, says):
    with pytest.raises(DataError, match=rf"^{WHERE}: .*{says}"):
        read_row(row, WHERE, RowFormat())


def test_every_format_is_tested():
    assert set(FORMATS) == {"prompt", "conversations", "instruction"}
