"""Sources: every kind of file, and bad rows by file and line."""

from __future__ import annotations

import json
import pickle

import pytest

from tokenkit.data.rows import RowFormat, marked_text, plain_text
from tokenkit.data.sources import open_source
from tokenkit.errors import DataError


def read_all(name):
    source = open_source(str(name), "train")
    return [source.read(index) for index in range(len(source))]


def test_json_lines(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "one"}\n\n{"text": "zwö\\n"}\n{"text": "no newline at the end"}')
    rows = read_all(path)
    assert [row["text"] for row, _ in rows] == ["one", "zwö\n", "no newline at the end"]
    assert [where for _, where in rows] == [f"{path}:1", f"{path}:3", f"{path}:4"]
    source = pickle.loads(pickle.dumps(open_source(str(path), "train")))
    assert source.read(1)[0]["text"] == "zwö\n"


def test_json_list_and_json_lines_by_content(tmp_path):
    (tmp_path / "list.json").write_text(' [{"text": "a"}, {"text": "b"}]')
    (tmp_path / "lines.json").write_text('{"text": "a"}\n{"text": "b"}\n')
    for name in ("list.json", "lines.json"):
        assert [row["text"] for row, _ in read_all(tmp_path / name)] == ["a", "b"]


def test_parquet(tmp_path):
    import datasets

    path = tmp_path / "a.parquet"
    messages = [{"role": "user", "content": "x"}]
    datasets.Dataset.from_list([{"messages": messages}, {"messages": messages}]).to_parquet(path)
    assert [row["messages"] for row, _ in read_all(path)] == [messages, messages]


def test_folder_is_read_in_order(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "b.txt").write_text("second\nfile")
    (tmp_path / "a.jsonl").write_text('{"text": "first"}\n')
    (tmp_path / "sub" / "c.txt").write_text("third")
    (tmp_path / "ignored.md").write_text("no data")
    rows = [plain_text(row, where, RowFormat()) for row, where in read_all(tmp_path)]
    assert rows == ["first", "second\nfile", "third"]
    rows = [plain_text(row, "", RowFormat("body")) for row, _ in read_all(tmp_path / "*.txt")]
    assert rows == ["second\nfile"]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.jsonl", '{"text": "x"}\n{"text": \n', r"a\.jsonl:2: not a JSON object"),
        ("a.json", "[1, 2", r"a\.json: not valid JSON"),
        ("a.parquet", "nope", r"a\.parquet: not a readable parquet file"),
        ("a.csv", "x,y", r"a\.csv: unknown kind of file"),
        ("a.jsonl", "", r"has no rows"),
    ],
)
def test_bad_files(tmp_path, name, content, says):
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=says):
        read_all(tmp_path / name)


def test_missing(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        open_source(str(tmp_path / "nowhere.jsonl"), "train")


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ([1], "must be an object, not list"),
        ({"body": "x"}, "neither 'text' nor 'messages'.*body"),
        ({"text": 3}, "'text' is int"),
        ({"messages": "hi"}, "must be a list of objects"),
        ({"messages": [{"role": "narrator", "content": "x"}]}, "unknown role 'narrator'"),
        ({"messages": [{"role": "user", "content": 1}]}, "content is int"),
        ({"messages": [{"content": "x"}]}, "unknown role None"),
    ],
)
def test_bad_rows(row, says):
    for read in (marked_text, plain_text):
        with pytest.raises(DataError, match=rf"^f\.jsonl:7: .*{says}"):
            read(row, "f.jsonl:7", RowFormat())


def test_good_rows():
    mode = RowFormat(text_field="body", text_mode="direct_encode_no_force_eos")
    assert marked_text({"body": "x"}, "", mode) == "<|<bos>|>x"
    assert marked_text({"body": ""}, "", mode) == ""
    chat = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}
    assert marked_text(chat, "", RowFormat()).startswith("<|<bos>|><|<start_header>|>")
    assert plain_text(chat, "", RowFormat()) == "q\na"
    assert marked_text({"messages": []}, "", RowFormat()) == ""
    json.dumps(chat)
