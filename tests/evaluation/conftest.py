"""Tiny models with tokenizers, and tasks that need no network."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.models.tiny import save_tiny
from tests.tokenizers.specs import tokenizer

ROOT = Path(__file__).parents[2]
TASKS = ["tokenkit_arithmetic", "tokenkit_continue", "tokenkit_documents"]
FOLDERS = {
    "llama": "bpe_a:source=Llama3",
    "qwen3": "bpe_b:source=Qwen3",
    "gemma2": "spm:source=Gemma2",
    "gpt2": "bpe_a:source=GPT2",
}


def save_model(folder: Path, family: str, spec: str, **overrides) -> Path:
    """A model folder as a user has one: weights, tokenizer, and ids that belong together."""
    tok = tokenizer(spec)
    positions = "n_positions" if family == "gpt2" else "max_position_embeddings"
    save_tiny(folder, family, **{"vocab_size": len(tok), positions: 512, **overrides})
    tok.save(folder)
    return folder


@pytest.fixture(scope="session")
def folders(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("evaluated")
    return {name: save_model(root / name, name, spec) for name, spec in FOLDERS.items()}


@pytest.fixture
def offline_tasks(monkeypatch, tmp_path_factory):
    """lm-eval's view of the tasks in tests/assets; their files are named from the checkout."""
    from tokenkit.evaluation.tasks import find_tasks

    monkeypatch.chdir(ROOT)
    cache = tmp_path_factory.getbasetemp() / "datasets"
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", cache)
    return find_tasks(TASKS, "tests/assets/lm_eval")[1]
