"""Files, folders and datasets as rows by number."""

from __future__ import annotations

import json
import os
import pickle
import random

import pyarrow
import pytest
from pyarrow import parquet

from tests.data.support import write_rows
from tokenkit.data import json_files
from tokenkit.data.sources import FILE_KINDS, iterate_source, open_source
from tokenkit.errors import DataError

ROWS = [{"text": f"row {n} \u00e9\U0001f600"} for n in range(5)]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def read_all(name, **options):
    source = open_source(str(name), "train", **options)
    return [source.read(index) for index in range(len(source))]


def rows_of(name, **options):
    return [row for row, _ in read_all(name, **options)]


def lines_of(name):
    return [int(where.rpartition(":")[2]) for _, where in read_all(name)]


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("last", ["", "newline", "blanks"])
def test_json_lines(tmp_path, newline, last):
    lines = [json.dumps(row, ensure_ascii=False) for row in ROWS]
    lines[2:2] = ["", ""]
    end = {"": "", "newline": newline, "blanks": 3 * newline}[last]
    path = tmp_path / "x.jsonl"
    path.write_bytes((newline.join(lines) + end).encode())
    assert rows_of(path) == ROWS
    assert lines_of(path) == [1, 2, 5, 6, 7]


def test_json_lines_scanned_in_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr(json_files, "SCAN_BYTES", 7)
    lines = [random.Random(n).choice(["", '{"text": "a"}', "{}", "1"]) for n in range(99)]
    path = tmp_path / "x.jsonl"
    path.write_text("\n".join(lines))
    expected = [(json.loads(line), number) for number, line in enumerate(lines, 1) if line]
    assert list(zip(rows_of(path), lines_of(path), strict=True)) == expected


def test_json_lines_hold_no_rows(tmp_path):
    """What goes to a worker process is offsets, not text."""
    path = write_rows(tmp_path / "x.jsonl", [{"text": "long " * 10_000}] * 20)
    source = open_source(str(path), "train")
    source.read(3)
    assert len(pickle.dumps(source)) < 5_000
    assert pickle.loads(pickle.dumps(source)).read(3) == source.read(3)


@pytest.mark.parametrize("indent", [None, 2])
def test_json_list(tmp_path, indent):
    path = tmp_path / "x.json"
    path.write_text("\ufeff\n  " + json.dumps([*ROWS, [], "x"], indent=indent) + "\n")
    assert rows_of(path) == [*ROWS, [], "x"]
    assert lines_of(path) == ([2] * 7 if indent is None else [3, 6, 9, 12, 15, 18, 19])


def test_json_of_one_object_a_line(tmp_path):
    path = write_rows(tmp_path / "x.json", ROWS)
    assert rows_of(path) == ROWS


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("x.jsonl", b'{"text": "a"}\n\n{"text": "cut\n', r"x\.jsonl:3: not a JSON object"),
        ("x.jsonl", b'{"text": "a"}\n{"text": "b"} {}\n', r"x\.jsonl:2: .*Extra data, column 15"),
        ("x.jsonl", b'{"text": "a"}\n{"text": "\xff"}\n', r"x\.jsonl:2: not UTF-8.*byte 11"),
        ("x.jsonl", b'{"text": "a"}\n   \n', r"x\.jsonl:2: not a JSON object"),
        ("x.jsonl", b'{"text": "a"}\n' + b"[" * 99_999, r"x\.jsonl:2: .*nested too deeply"),
        ("x.json", b'{\n"text": "a"\n}\n', r"x\.json:1: not a JSON object on one line"),
        ("x.json", b'[\n{"text": "a"},\n{"text": "b"}\n', r"x\.json:4: .*expected ',' or ']'"),
        ("x.json", b'[{"text": "a"}\n{"text": "b"}]', r"x\.json:2: .*expected ',' or ']'"),
        ("x.json", b'[{"text": "a"},\n\n{"text": "b]', r"x\.json:3: not a list of JSON rows"),
        ("x.json", b'[{"text": "a"},\n]', r"x\.json:2: not a list"),
        ("x.json", b'[{"text": "a"}]\n{"text": "b"}', r"x\.json:1: .*something follows"),
        ("x.json", b"[\n" + b"[" * 99_999, r"x\.json:2: .*nested too deeply"),
        ("x.json", b"[]", "x.json' has no rows"),
        ("x.jsonl", b"", "x.jsonl' has no rows"),
        ("x.jsonl", b"\n\n", "x.jsonl' has no rows"),
        ("x.txt", b"\xff", r"x\.txt: not readable as UTF-8"),
        ("x.parquet", b"not parquet", r"x\.parquet: not a readable parquet file"),
        ("x.csv", b"a,b", r"x\.csv: unknown kind of file '.csv' \(known: .json, .jsonl"),
    ],
)
def test_unreadable_files(tmp_path, name, content, says):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=says) as caught:
        read_all(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_missing_file_and_folder_without_data(tmp_path):
    for path in (tmp_path, tmp_path / "nowhere.jsonl"):
        with pytest.raises(DataError, match=f"{path}.*no such file, or a folder without"):
            open_source(str(path), "train")


def test_parquet(tmp_path):
    chat = [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Ho."}]
    rows = [{"text": "a", "messages": None}, {"text": None, "messages": chat}]
    path = tmp_path / "x.parquet"
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    assert rows_of(path) == rows
    assert lines_of(path) == [1, 2]
    # A file that changed is not read from the cache.
    parquet.write_table(pyarrow.Table.from_pylist(rows * 2), path)
    assert rows_of(path) == rows * 2


def test_parquet_without_rows(tmp_path):
    parquet.write_table(pyarrow.table({"text": pyarrow.array([], pyarrow.string())}),
                        tmp_path / "x.parquet")  # fmt: skip
    write_rows(tmp_path / "y.jsonl", ROWS)
    assert rows_of(tmp_path) == ROWS


def test_damaged_parquet(tmp_path):
    path = tmp_path / "x.parquet"
    parquet.write_table(pyarrow.table({"text": ["abc" * n for n in range(999)]}), path)
    data = bytearray(path.read_bytes())
    data[4 : len(data) // 2] = bytes(len(data) // 2 - 4)
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"x\.parquet"):
        rows_of(path)


def test_folder_takes_all_kinds_in_order(tmp_path):
    (tmp_path / "b" / "deep").mkdir(parents=True)
    (tmp_path / ".hidden").mkdir()
    write_rows(tmp_path / "a.jsonl", ROWS[:2])
    (tmp_path / "b" / "deep" / "x.txt").write_text("a document\n\nof lines\n")
    (tmp_path / "b" / "e.jsonl").write_text("")
    parquet.write_table(pyarrow.Table.from_pylist(ROWS[2:3]), tmp_path / "c.parquet")
    (tmp_path / "d.json").write_text(json.dumps(ROWS[3:]))
    (tmp_path / "README.md").write_text("no data")
    write_rows(tmp_path / ".hidden" / "x.jsonl", ROWS)
    document = {"text": "a document\n\nof lines\n"}
    assert rows_of(tmp_path) == [*ROWS[:2], document, *ROWS[2:]]
    assert rows_of(tmp_path / "*.json*") == [*ROWS[:2], *ROWS[3:]]
    assert list(iterate_source(str(tmp_path), "train")) == read_all(tmp_path)


def test_text_files_fill_the_text_field(tmp_path):
    (tmp_path / "x.txt").write_text("a document")
    assert rows_of(tmp_path, text_field="content") == [{"content": "a document"}]


def test_kinds_of_file_can_be_added(tmp_path, monkeypatch):
    class Lines(list):
        def read(self, index):
            return {"text": self[index]}, f"line {index}"

    monkeypatch.setattr(FILE_KINDS, "_items", dict(FILE_KINDS._items))
    FILE_KINDS.register(".lines")(lambda path, text_field: Lines(path.read_text().split()))
    (tmp_path / "x.lines").write_text("a\nb\n")
    assert rows_of(tmp_path) == [{"text": "a"}, {"text": "b"}]


def test_datasets_by_name_indexed_and_streamed(tmp_path):
    """A local folder stands in for a dataset of the hub."""
    folder = tmp_path / "dataset"
    folder.mkdir()
    write_rows(folder / "train.jsonl", ROWS)
    write_rows(folder / "test.jsonl", ROWS[:1])
    name = f"hf:{folder}"
    assert rows_of(name) == ROWS
    assert lines_of(name) == [1, 2, 3, 4, 5]
    streamed = list(iterate_source(name, "train"))
    assert streamed == read_all(name) == list(iterate_source(name, "train", streaming=False))
    assert len(open_source(name, "test")) == 1
    with pytest.raises(DataError, match=r"hf:.*\(split 'tset'\) cannot be loaded: .*tset"):
        open_source(name, "tset")
    with pytest.raises(DataError, match="cannot be loaded"):
        open_source(f"hf:{tmp_path}/nowhere", "train")


def test_a_stream_that_breaks_off(tmp_path):
    folder = tmp_path / "dataset"
    folder.mkdir()
    write_rows(folder / "train.jsonl", [*ROWS, '{"text": "cut'])
    with pytest.raises(DataError, match=r"^hf:.*dataset:\d+: cannot be read"):
        list(iterate_source(f"hf:{folder}", "train"))


def test_a_file_cut_short_while_it_is_read(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(f'{{"text": "row {n}"}}\n' for n in range(2000)))
    source = json_files.JsonLines(path)
    assert source.read(1999)[0] == {"text": "row 1999"}
    os.truncate(path, 100)
    with pytest.raises(DataError, match=r"rows\.jsonl:2000: the file has become shorter"):
        source.read(1999)
