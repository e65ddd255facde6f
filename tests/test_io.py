"""New files and folders appear whole or not at all, and nothing is written over."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tokenkit.errors import TokenkitError
from tokenkit.io import new_file, new_folder, refuse_existing


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


@pytest.mark.parametrize("empty_there", [False, True])
def test_a_folder_appears_when_it_is_whole(tmp_path, empty_there):
    path = tmp_path / "deep" / "new"
    if empty_there:
        path.mkdir(parents=True)
    with new_folder(path) as partial:
        (partial / "a").write_text("1")
        assert not (path / "a").exists()
    assert (path / "a").read_text() == "1" and names(path.parent) == ["new"]


def test_a_failed_folder_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), new_folder(tmp_path / "new") as partial:
        (partial / "a").touch()
        raise KeyboardInterrupt
    assert names(tmp_path) == []


def test_a_new_folder_has_nothing_of_a_crash(tmp_path):
    (tmp_path / "new.partial").mkdir()
    (tmp_path / "new.partial" / "stale").touch()
    with new_folder(tmp_path / "new") as partial:
        (partial / "a").touch()
    assert names(tmp_path) == ["new"] and names(tmp_path / "new") == ["a"]


def test_a_resumed_folder_keeps_what_a_failed_attempt_wrote(tmp_path):
    for attempt in ("first", "second"):
        with pytest.raises(ValueError), new_folder(tmp_path / "new", resume=True) as partial:
            (partial / attempt).touch()
            raise ValueError
    with new_folder(tmp_path / "new", resume=True):
        pass
    assert names(tmp_path) == ["new"] and names(tmp_path / "new") == ["first", "second"]


def test_nothing_to_resume_leaves_nothing(tmp_path):
    with pytest.raises(ValueError), new_folder(tmp_path / "new", resume=True):
        raise ValueError
    assert names(tmp_path) == []


def test_a_folder_that_was_filled_meanwhile_is_kept(tmp_path):
    with pytest.raises(OSError), new_folder(tmp_path / "new") as partial:
        (partial / "ours").touch()
        (tmp_path / "new").mkdir()
        (tmp_path / "new" / "theirs").touch()
    assert names(tmp_path / "new") == ["theirs"]


@pytest.mark.parametrize(("mode", "content"), [("w", "naïve\n"), ("wb", b"\xff\n")])
def test_a_file_appears_when_it_is_whole(tmp_path, mode, content):
    path = tmp_path / "file"
    path.write_text("before")
    (tmp_path / "file.partial").write_text("much longer, left by a crash")
    with new_file(path, mode) as file:
        file.write(content)
        assert path.read_text() == "before"
    written = path.read_bytes()
    assert written == (content.encode() if mode == "w" else content)
    assert names(tmp_path) == ["file"]


def test_a_failed_file_leaves_the_old_one(tmp_path):
    path = tmp_path / "file"
    path.write_text("before")
    with pytest.raises(ValueError), new_file(path) as file:
        file.write("half")
        raise ValueError
    assert path.read_text() == "before" and names(tmp_path) == ["file"]


def test_what_is_there_is_refused(tmp_path):
    full, empty, file = tmp_path / "full", tmp_path / "empty", tmp_path / "file"
    (full / "inner").mkdir(parents=True)
    empty.mkdir()
    file.touch()
    for path, kind in ((tmp_path / "none", "file"), (tmp_path / "none", "folder")):
        refuse_existing(path, "--output", kind)
    refuse_existing(empty, "--output", "folder")
    for path in (full, file):
        with pytest.raises(TokenkitError, match=f"^--output '{path}' already exists and is not"):
            refuse_existing(path, "--output", "folder")
    with pytest.raises(TokenkitError, match=f"^--output '{file}' already exists; choose"):
        refuse_existing(file, "--output", "file")
    for path in (full, empty):
        with pytest.raises(TokenkitError, match=f"^--output '{path}' is a folder; name a file"):
            refuse_existing(path, "--output", "file")


def test_it_is_light():
    code = "import sys, tokenkit.io; print({'torch', 'numpy', 'transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
