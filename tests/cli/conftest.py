"""Where commands are run."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.launch import train

ROOT = Path(__file__).parents[2]


@pytest.fixture
def forked_stages(monkeypatch, tmp_path):
    """Stages of a command are forked from a process that has imported all, not started anew."""

    def run(title: str, command: str, *arguments: str) -> None:
        print(f"== {title}\n$ python -m tokenkit {command} {' '.join(arguments)}")
        program = "train" if command == "train" else f"tokenkit.cli.{command.replace('-', '_')}"
        train(list(arguments), 1, tmp_path / "stages.log", program=program)

    monkeypatch.setattr("tokenkit.cli.stages.run", run)
    monkeypatch.setattr("tokenkit.cli.quickstart.run", run)
