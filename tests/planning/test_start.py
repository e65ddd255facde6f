"""What a run of two ranks says, from its panel to its last line, where nobody has a terminal."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from tests.launch import train
from tests.training.small_runs import ROWS_A, ROWS_B, arguments


@pytest.fixture(scope="module")
def said(folder_of_models, tmp_path_factory) -> str:
    """Of a run whose teacher is another model."""
    folder = tmp_path_factory.mktemp("said")
    rows = str(folder_of_models / "rows.jsonl")
    argv = arguments(folder_of_models, "--training.micro_batch_size 2 --metrics.log_interval 2")
    argv += ["--eval.interval", "4", "--data.validation", rows, "--job.output_dir"]
    train([*argv, str(folder / "run")], 2, folder / "log")
    return (folder / "log").read_text()


def test_panel(said, folder_of_models):
    found = dict(re.findall(r"^(\w+) {2,}(.*(?:\n {12}.*)*)", said, re.M))
    sizes = [
        sum(p.numel() for p in AutoModelForCausalLM.from_pretrained(folder_of_models / name)
            .parameters())
        for name in ("untied_b", "wide_a")
    ]  # fmt: skip
    for role, size in zip(("student", "teacher"), sizes, strict=True):
        assert f"{size / 1e3:.2f} K parameters" in found[role], found[role]
    assert f"{sizes[0] / 1e3:.2f} K trained" in " ".join(found["student"].split())
    assert "2 x CPU" in found["device"] and "float32" in found["device"]
    layout = " ".join(found["layout"].split())
    assert "1 x 2 x 1 x 1" in layout and "8 rows" in layout
    assert "2 a micro-batch x 2 accumulated x 2 data-parallel" in layout
    tokens = " ".join(found["tokenizer"].split())
    assert f"{ROWS_B} tokens, family Llama3, chats as Llama3" in tokens
    assert re.search(rf"^  teacher's\s(.|\n)*?{ROWS_A:,}\s+tokens", said, re.M)
    data = " ".join(found["data"].split())
    assert "32 rows, read 2 times" in data and re.search(r"\d+% of the first 4 are cut", data)
    assert "576 tokens" in found["step"] if "step" in found else "at most 576 tokens" in said
    assert "sft + 2.5 alm_unconstrained" in found["losses"]
    panel = said[said.index("\nrun  ") : said.index("\nfolder ")]
    assert max(map(len, panel.splitlines())) <= 100


def test_lines(said):
    assert "\r" not in said and "it/s" not in said and "\033" not in said
    assert re.search(r"step     0  bits per byte \d+\.\d+ \(teacher \d+\.\d+\)", said)
    assert re.search(r"step     8  bits per byte \d+\.\d+ \(gap closed -?\d+\.\d%\)", said)
    assert re.search(r"step     4  loss .* \d+ s left$", said, re.M)
    assert not re.search(r"step     8  loss .* left$", said, re.M)
    assert said.count("has no single token for") <= 2  # once a tokenizer, not once a rank
    last = said.splitlines()[-1]
    assert "next: tokenkit export --run" in last and Path(last.split()[2].rstrip(";")).is_dir()
