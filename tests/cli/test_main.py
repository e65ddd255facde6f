"""``tokenkit`` as a whole: every command is listed, has a file and a door, and can be mistyped."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from tokenkit.cli import main as cli
from tokenkit.errors import ConfigError

ROOT = Path(__file__).parents[2]
FOLDER = Path(cli.__file__).parent
NO_COMMANDS = {
    "__init__", "arguments", "main", "quickstart_material", "stages",
    "transfer_costs", "transfer_settings",
}  # fmt: skip


def names(folder: Path) -> set[str]:
    return {path.stem for path in folder.glob("*.py")}


def test_commands_are_files_with_doors():
    files = {name.replace("-", "_") for name in cli.COMMANDS}
    assert names(FOLDER) - NO_COMMANDS == files
    assert names(ROOT / "scripts") <= files
    for name in files:
        assert callable(importlib.import_module(f"tokenkit.cli.{name}").main)


@pytest.mark.parametrize("arguments", [[], ["-h"], ["--help"]])
def test_overview(monkeypatch, capsys, arguments):
    monkeypatch.setattr(sys, "argv", ["tokenkit", *arguments])
    cli.run_command()
    printed = capsys.readouterr().out.splitlines()
    for name, line in cli.COMMANDS.items():
        assert any(p.split(maxsplit=1) == [name, line] for p in printed)
    assert all(len(p) <= 100 for p in printed)


def test_an_unknown_command(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["tokenkit", "exprot"])
    with pytest.raises(ConfigError, match="unknown command 'exprot'; did you mean 'export'?"):
        cli.run_command()


def test_a_command_gets_its_arguments(monkeypatch, tmp_path):
    monkeypatch.setattr(
        sys, "argv", ["tokenkit", "inspect-tokenizers", "a", "b", "--file", str(tmp_path / "no")]
    )
    with pytest.raises(Exception, match="--file .*no: not readable"):
        cli.run_command()


def test_train_is_the_program(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["tokenkit", "train", "--help"])
    with pytest.raises(SystemExit) as left:
        cli.run_command()
    assert left.value.code == 0 and "--training.steps" in capsys.readouterr().out
