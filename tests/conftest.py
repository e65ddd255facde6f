"""Shared fixtures: a tiny model, two tokenizers and a few documents, all local."""

from __future__ import annotations

import json
import logging
import os
import runpy
import sys
from pathlib import Path

import pytest

from tokenkit import log

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@pytest.fixture(autouse=True)
def logging_as_it_was():
    """Commands run in this process set up the package's logger."""
    logger = logging.getLogger("tokenkit")
    before = logger.handlers[:], logger.level, logger.propagate
    log._said.clear()
    yield
    logger.handlers[:], logger.level, logger.propagate = before


@pytest.fixture(scope="session")
def texts_file(tmp_path_factory) -> Path:
    """Forty documents of different lengths, some of them chats."""
    golden = Path(__file__).parent / "golden" / "tokenizers" / "align-bpe_a-bpe_b.json"
    rows = json.loads(golden.read_text())["rows"]
    texts = [row["text"] for row in rows if row["kind"] == "text" and len(row["text"]) > 20]
    path = tmp_path_factory.mktemp("data") / "texts.jsonl"
    with path.open("w") as file:
        for number in range(40):
            text = f"{number}: " + texts[number % len(texts)]
            if number % 5 == 4:
                row = {
                    "messages": [
                        {"role": "user", "content": f"What is {number}?"},
                        {"role": "assistant", "content": text},
                    ]
                }
            else:
                row = {"text": text}
            file.write(json.dumps(row) + "\n")
    return path


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory) -> Path:
    """A three-layer Llama whose vocabulary fits the small tokenizer ``bpe_a`` as Llama 3."""
    from tests.models.tiny import save_tiny

    folder = tmp_path_factory.mktemp("models") / "llama"
    return save_tiny(folder, "llama", vocab_size=1505, num_hidden_layers=3)


@pytest.fixture(scope="session")
def base_arguments(texts_file, tiny_llama) -> list[str]:
    """Arguments of a small transfer run; tests add or override (the last one wins)."""
    from tests.launch import SPEC_A, SPEC_B

    return [
        "--student.model", str(tiny_llama),
        "--student.tokenizer", SPEC_A,
        "--student.target_tokenizer", SPEC_B,
        "--loss.names", "sft,alm_unconstrained",
        "--data.train", str(texts_file),
        "--training.steps", "5",
        "--training.batch_size", "8",
        "--training.micro_batch_size", "8",
        "--training.max_teacher_length", "96",
        "--training.max_student_length", "96",
        "--optimizer.lr", "3e-3",
        "--checkpoint.enable", "false",
        "--metrics.log_interval", "1",
        "--metrics.tensorboard", "false",
        "--metrics.progress", "false",
    ]  # fmt: skip


@pytest.fixture
def script(monkeypatch):
    """Run ``scripts/<name>.py`` with arguments; TokenkitErrors are raised."""
    monkeypatch.setenv("TOKENKIT_TRACEBACK", "1")

    def run(name, *arguments):
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments)])
        runpy.run_path(
            str(Path(__file__).parents[1] / "scripts" / f"{name}.py"), run_name="__main__"
        )

    return run
