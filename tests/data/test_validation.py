"""Texts to validate on."""

from __future__ import annotations

import pytest

from tests.data.support import make_config, write_rows
from tokenkit.data import load_validation_texts
from tokenkit.data.validation import LONGEST_DOCUMENT
from tokenkit.errors import DataError

TURNS = [{"role": "user", "content": "a?"}, {"role": "assistant", "content": "a!"}]


def config_of(files, most, **data):
    data = {"validation": [str(file) for file in files], **data}
    return make_config([], data=data, eval={"max_documents": most})


def test_first_texts_without_markers(tmp_path):
    rows = [{"text": "a0"}, {"text": ""}, {"messages": TURNS}, {"text": "a2"}, {"text": "a3"}]
    file = write_rows(tmp_path / "a.jsonl", rows)
    assert load_validation_texts(config_of([file], 3)) == ["a0", "a?\na!", "a2"]
    assert load_validation_texts(config_of([file], 99)) == ["a0", "a?\na!", "a2", "a3"]


def test_sources_take_turns(tmp_path):
    a = write_rows(tmp_path / "a.jsonl", [{"text": f"a{n}"} for n in range(5)])
    b = write_rows(tmp_path / "b.jsonl", [{"text": "b0"}])
    assert load_validation_texts(config_of([a, b], 4)) == ["a0", "b0", "a1", "a2"]


def test_streams_are_read_no_further_than_needed(tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    write_rows(folder / "train.jsonl", [{"text": f"a{n}"} for n in range(5)])
    config = config_of([f"hf:{folder}"], 2, streaming=True)
    assert load_validation_texts(config) == ["a0", "a1"]


def test_nothing_to_read(tmp_path):
    assert load_validation_texts(config_of([], 4)) == []
    blank = write_rows(tmp_path / "blank.jsonl", [{"text": " "}])
    with pytest.raises(DataError, match=r"data\.validation.*blank\.jsonl.*no row has any text"):
        load_validation_texts(config_of([blank], 4))
    bad = write_rows(tmp_path / "bad.jsonl", [{"text": "a"}, {"txt": "b"}])
    with pytest.raises(DataError, match=r"bad\.jsonl:2: neither"):
        load_validation_texts(config_of([bad], 4))


def test_a_document_of_30_mb_counts_as_many(tmp_path):
    text = "the quick brown fox jumps over the lazy dog\n" * 700_000
    file = write_rows(tmp_path / "x.jsonl", [{"text": text}])
    pieces = load_validation_texts(config_of([file], 5))
    assert len(pieces) == 5 and text.startswith("".join(pieces))
    assert all(60_000 < len(piece) <= LONGEST_DOCUMENT and piece[-1] == "\n" for piece in pieces)
