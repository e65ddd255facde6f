"""Stages of a command: what they say in a file, and that no warning comes twice."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from tests.launch import TOKENIZERS
from tokenkit import log
from tokenkit.cli import stages
from tokenkit.errors import TokenkitError
from tokenkit.tokenizers import load_tokenizer
from tokenkit.tokenizers.alphabet import BYTE_CHARACTERS

CAUSE = "has no token for 1 of the 256 bytes"


def without_a_byte(folder: Path) -> str:
    """The spec of a tokenizer of which there is something to warn of."""
    shutil.copytree(TOKENIZERS / "bpe_a", folder)
    file = folder / "tokenizer.json"
    data = json.loads(file.read_text())
    vocabulary = data["model"]["vocab"]
    vocabulary["never seen"] = vocabulary.pop(BYTE_CHARACTERS[4])
    file.write_text(json.dumps(data))
    return f"{folder}:source=Llama3"


def test_a_warning_is_given_once_by_a_command_and_its_stages(capfd, tmp_path):
    one, other = (without_a_byte(tmp_path / name) for name in ("one", "other"))
    log.init_logger()
    log.warn_once("a name that is not UTF-8: \udcff\n")
    load_tokenizer(one)
    load_tokenizer(one)
    assert capfd.readouterr().err.count(CAUSE) == 1
    for _ in range(2):
        stages.run("look", "inspect-tokenizers", one, other, "--text", "a b")
    found = capfd.readouterr()
    assert found.err.count(f"tokenizer '{one}' {CAUSE}") == 0
    assert found.err.count(f"tokenizer '{other}' {CAUSE}") == 1
    assert "\r" not in found.out + found.err


def test_what_stages_share_goes_with_them(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    with pytest.raises(TokenkitError, match="tokenkit inspect-tokenizers failed"):
        stages.run("look", "inspect-tokenizers", "no/such/one", "nor/this/one")
    assert not list(tmp_path.iterdir())


def test_bars_of_libraries_only_in_terminals(monkeypatch):
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    log.bars_only_in_terminals()
    assert "TQDM_DISABLE" not in os.environ
    monkeypatch.setattr("sys.stderr.isatty", lambda: False, raising=False)
    monkeypatch.setenv("TQDM_DISABLE", "0")  # a person decides
    log.bars_only_in_terminals()
    assert os.environ["TQDM_DISABLE"] == "0"
