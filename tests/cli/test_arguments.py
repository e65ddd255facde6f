"""Options are spelt with dashes; underscores, the older spelling, are understood."""

from __future__ import annotations

import sys

import pytest

from tokenkit.cli import compute_tokenizer_info, zett
from tokenkit.cli.arguments import CommandParser, at_least, not_negative, with_dashes
from tokenkit.data.token_counts import SHARD_ROWS
from tokenkit.errors import ConfigError
from tokenkit.tokenizers.pairs.statistics import ADDITIVE


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("--max_documents", "--max-documents"),
        ("--max_documents=8", "--max-documents=8"),
        ("--text=a_b\n--c_d", "--text=a_b\n--c_d"),
        ("--a_b c", "--a_b c"),  # with a blank it is a value
        ("a_b", "a_b"),
        ("-a_b", "-a_b"),
        ("--", "--"),
    ],
)
def test_with_dashes(given, meant):
    assert with_dashes(given) == meant


@pytest.mark.parametrize("spelling", ["--keep-top", "--keep_top"])
def test_both_spellings(monkeypatch, spelling):
    monkeypatch.setattr(sys, "argv", ["zett", "--output", "x", spelling, "5"])
    assert zett.parse_arguments().keep_top == 5


def test_help_shows_one_spelling(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["zett", "--help"])
    with pytest.raises(SystemExit):
        zett.parse_arguments()
    printed = capsys.readouterr().out
    assert "--keep-top" in printed and "--keep_top" not in printed


@pytest.mark.parametrize(
    ("kind", "text"),
    [(at_least(1), "0"), (at_least(1), "-1"), (at_least(1), "x"), (not_negative, "-1"),
     (not_negative, "nan"), (not_negative, "inf"), (not_negative, "x")],
)  # fmt: skip
def test_types_refuse(kind, text):
    parser = CommandParser("")
    parser.add_argument("--n", type=kind)
    with pytest.raises(ConfigError, match=f"^--n: '{text}' is not a"):
        parser.parse_args([f"--n={text}"])


def test_what_is_written_down_is_what_the_library_has(monkeypatch):
    """Defaults that --help shows without importing what they belong to."""
    monkeypatch.setattr(
        sys, "argv", ["x", "--teacher", "t", "--student", "s", "--data", "d", "--output", "o"]
    )
    args = compute_tokenizer_info.parse_arguments()
    assert (args.shard_rows, args.additive) == (SHARD_ROWS, ADDITIVE)
