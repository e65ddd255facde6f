"""Scripts, run as a user runs them (in one process, for speed)."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def script(monkeypatch):
    """Run ``scripts/<name>.py`` with arguments; TokenkitErrors are raised."""
    monkeypatch.setenv("TOKENKIT_TRACEBACK", "1")

    def run(name, *arguments):
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments)])
        runpy.run_path(str(ROOT / "scripts" / f"{name}.py"), run_name="__main__")

    return run
