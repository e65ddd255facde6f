"""Every command of the documentation is run here, by another test, or listed with its need."""

from __future__ import annotations

import ast
import os
import shlex
import shutil
import subprocess
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from tests.documented.shown import ROOT, commands
from tests.documented.standins import lay_out, make_stand_ins, named, run
from tests.documented.table import NEEDS, TABLE, Elsewhere, Here, Make, Needs, Way

PLACES = {command.text: command.place for command in reversed(commands())}
NOTES = '#!/bin/sh\necho "$(basename "$0") $*" >> calls\n'  # for a program of .venv/bin


def ways(text: str) -> list[str]:
    """Keys of the table that a command falls under."""
    return [key for key in TABLE if fnmatchcase(text, key)]


def entries(kind: type) -> list:
    """Commands that are tried in such a way."""
    found: list[tuple[str, Way]] = [(t, TABLE[k]) for t in PLACES for k in ways(t)[:1]]
    return [pytest.param(t, way, id=PLACES[t]) for t, way in found if isinstance(way, kind)]


def test_each_command_is_in_the_table_once():
    wrong = {f"{PLACES[text]}: {text}": ways(text) for text in PLACES if len(ways(text)) != 1}
    assert not wrong, "\n".join(
        f"{where}\n    {f'falls under {keys}' if keys else 'is not in tests/documented/table.py'}"
        for where, keys in wrong.items()
    )


def test_the_table_has_no_others():
    used = {key for text in PLACES for key in ways(text)}
    assert not set(TABLE) - used


def test_needs_are_known():
    assert {way.what for way in TABLE.values() if isinstance(way, Needs)} <= NEEDS


@pytest.mark.parametrize(
    "test", sorted({way.test for way in TABLE.values() if isinstance(way, Elsewhere)})
)
def test_other_tests_exist(test):
    path, _, function = test.partition("::")
    functions = [node.name for node in ast.parse((ROOT / path).read_text("utf-8")).body
                 if isinstance(node, ast.FunctionDef)]  # fmt: skip
    assert function in functions, f"no {test}"


@pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")
@pytest.mark.parametrize(("text", "way"), entries(Make))
def test_make(text, way, tmp_path):
    """The Makefile as it is; what it installs and calls only notes that."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    bin_folder = tmp_path / ".venv" / "bin"
    bin_folder.mkdir(parents=True)
    for program in ("python", "ruff", "mypy", "mkdocs"):
        (bin_folder / program).write_text(NOTES)
        (bin_folder / program).chmod(0o755)
    # These tests may run under make themselves, with variables of their own.
    environment = {k: v for k, v in os.environ.items() if "MAKE" not in k and k != "ARGS"}
    done = subprocess.run(
        shlex.split(text), cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    calls = (tmp_path / "calls").read_text().splitlines()
    assert calls[-1].strip().endswith(way.calls)
    index = [call for call in calls if "--extra-index-url" in call]
    assert bool(index) == ("TORCH_INDEX" in text)


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory, texts_file, base_arguments) -> Path:
    return make_stand_ins(tmp_path_factory.mktemp("stand_ins"), texts_file, base_arguments)


@pytest.mark.slow
@pytest.mark.parametrize(("text", "way"), entries(Here))
def test_as_printed(text, way, stand_ins, tmp_path):
    words = [way.swap.get(word, word) for word in shlex.split(text)] + shlex.split(way.more)
    lay_out(tmp_path, stand_ins, named(words))
    run(words, way, tmp_path)
    outputs = [after for word, after in zip(words, words[1:], strict=False) if word == "--output"]
    for made in [*outputs, *filter(None, [way.makes])]:
        assert (tmp_path / made).exists(), f"{made} was not made\n{(tmp_path / 'log').read_text()}"
