"""Local paths are made whole; what is a hub id, or is not there, stays."""

from __future__ import annotations

import glob
import os
from pathlib import Path

import pytest

from tokenkit.config import config_from_dict, with_whole_paths

SPEC = ":source=Qwen2:target=Llama3"


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """A folder, with a name that is a pattern, to stand in."""
    folder = tmp_path / "run [1]"
    (folder / "models" / "m").mkdir(parents=True)
    (folder / "a.jsonl").touch()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(folder))
    return folder


@pytest.mark.parametrize(
    ("section", "key", "value", "whole"),
    [
        ("student", "model", "models/m", "{here}/models/m"),
        ("student", "model", "../run [1]/models/m/", "{here}/models/m"),
        ("student", "model", "~/models/m", "{here}/models/m"),
        ("student", "model", "org/name@main", "org/name@main"),
        ("student", "tokenizer", "models/m" + SPEC, "{here}/models/m" + SPEC),
        ("student", "target_tokenizer", "Qwen/Qwen2.5-0.5B" + SPEC, "Qwen/Qwen2.5-0.5B" + SPEC),
        ("teacher", "cache", "", ""),
        ("checkpoint", "initial_load", "models", "{here}/models"),
        ("eval", "include_path", "models", "{here}/models"),
        ("mined", "mapping", "a.jsonl", "{here}/a.jsonl"),
        ("data", "train", ["hf:a.jsonl", "a.jsonl"], ["hf:a.jsonl", "{here}/a.jsonl"]),
        ("data", "validation", ["none.jsonl"], ["none.jsonl"]),
        ("job", "name", "models", "models"),
    ],
)
def test_paths(here, section, key, value, whole):
    config = config_from_dict({section: {key: value}})
    found = getattr(getattr(with_whole_paths(config), section), key)
    many = isinstance(whole, list)
    expected = [w.format(here=here) for w in whole] if many else whole.format(here=here)
    assert found == expected
    assert getattr(getattr(config, section), key) == value


def test_patterns_hold_from_elsewhere(here, monkeypatch):
    config = with_whole_paths(config_from_dict({"data": {"train": ["*.jsonl"]}}))
    monkeypatch.chdir("/")
    assert glob.glob(config.data.train[0]) == [str(here / "a.jsonl")]


def test_patterns_are_of_a_place(here, monkeypatch):
    found = set()
    (here / "link").symlink_to(".")
    for folder, pattern in (("models", "../*.jsonl"), (".", "*.jsonl"), ("/", f"{here}/*.jsonl"),
                            (".", "link/*.jsonl")):  # fmt: skip
        monkeypatch.chdir(here / folder)
        pattern = pattern.replace(str(here), glob.escape(str(here)))
        config = config_from_dict({"data": {"train": [pattern]}})
        found.add(with_whole_paths(config, os.path.realpath).data.train[0])
    assert found == {glob.escape(os.path.realpath(here)) + "/*.jsonl"}


def test_a_folder_that_reads_like_a_spec(here, monkeypatch):
    folder = here / "x:lr=1" / "tok"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder.parent)
    config = config_from_dict({"student": {"tokenizer": "tok" + SPEC}})
    assert with_whole_paths(config).student.tokenizer == "tok" + SPEC


def test_links_are_kept_or_followed(here):
    (here / "link").symlink_to("models")
    config = config_from_dict({"student": {"model": "link/m"}})
    assert with_whole_paths(config).student.model == f"{here}/link/m"
    followed = with_whole_paths(config, os.path.realpath).student.model
    assert followed == os.path.realpath(here / "models" / "m")
