"""Models, tokenizers and data that cannot be used."""

from __future__ import annotations

import pytest

from tests.bad_inputs.cases_files import MODELS, ROWS, SOURCES, TOKENIZERS
from tests.bad_inputs.running import check_refused, refusal
from tokenkit.tokenizers.chat import limit


@pytest.fixture(autouse=True)
def impatience(monkeypatch):
    monkeypatch.setattr(limit, "SECONDS", 1.0)


@pytest.mark.parametrize(("name", "says"), MODELS)
def test_model(name, says, files, small_run, cwd):
    argv = [*small_run, f"--student.model={files[name]}"]
    check_refused(refusal("train", argv, cwd), says, cwd)


@pytest.mark.parametrize(("name", "says"), TOKENIZERS)
def test_tokenizer(name, says, files, small_run, cwd):
    if name.startswith("template"):
        changes = [f"--student.tokenizer={files[name]}", "--student.target_tokenizer="]
    else:
        changes = [f"--student.target_tokenizer={files[name]}:source=Qwen2:target=Llama3"]
    check_refused(refusal("train", small_run + changes, cwd), says, cwd)


@pytest.mark.parametrize(("name", "says"), ROWS)
def test_row(name, says, files, small_run, cwd):
    argv = [*small_run, f"--data.train={files[name]}"]
    check_refused(refusal("train", argv, cwd), rf"{name}\.jsonl:3: .*{says}", cwd)


@pytest.mark.parametrize(("name", "says"), SOURCES)
def test_source(name, says, files, small_run, cwd):
    argv = [*small_run, f"--data.train={files[name]}"]
    check_refused(refusal("train", argv, cwd), says, cwd)


def test_a_template_that_never_ends_for_one_row(files, small_run, cwd):
    argv = [
        *small_run,
        f"--student.tokenizer={files['template_loops_on_row']}:source=Llama3",
        "--student.target_tokenizer=",
        f"--data.train={files['slow_row']}",
    ]
    line = refusal("train", argv, cwd)
    check_refused(line, r"slow_row\.jsonl:2: .*template_loops.*chat template.*1 seconds", cwd)
