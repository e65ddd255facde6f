"""The notebook runs as it stands, and what is committed is what its cells print."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.notebook import execute

NOTEBOOK = Path(__file__).parents[1] / "examples" / "alm_from_scratch.ipynb"


def outputs(notebook: dict) -> list[list[str]]:
    """By code cell, the kinds of its outputs."""
    return [
        [next(iter(output.get("data", {"text": 0}))) for output in cell["outputs"]]
        for cell in notebook["cells"]
        if cell["cell_type"] == "code"
    ]


@pytest.mark.slow
def test_it_runs_without_network(monkeypatch):
    """Its cells compare ALM by hand with ``tk.alm_loss``, and see that the student learns."""
    monkeypatch.setenv("STEPS", "24")
    monkeypatch.delenv("TOKENKIT_TOKENIZERS", raising=False)
    made = execute(NOTEBOOK)
    committed = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert outputs(made) == outputs(committed)


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.skipif("TOKENKIT_TOKENIZERS" not in os.environ, reason="set TOKENKIT_TOKENIZERS")
def test_it_runs_on_real_tokenizers(monkeypatch):
    monkeypatch.setenv("STEPS", "8")
    execute(NOTEBOOK)


def test_committed_outputs_hold_no_path_of_a_machine():
    text = NOTEBOOK.read_text(encoding="utf-8")
    printed = json.dumps([cell.get("outputs") for cell in json.loads(text)["cells"]])
    assert "/tmp" not in printed and "/home" not in printed and len(printed) > 2000
