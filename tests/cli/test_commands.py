"""The command lines, run as a user runs them (in one process here, for speed)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.launch import SPEC_A, SPEC_B, train
from tests.models.tiny import FAMILIES, save_tiny
from tokenkit.batch import Sequences
from tokenkit.tokenizers import load_tokenizer

ROOT = Path(__file__).parents[2]


def plain_logits(folder, ids):
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.no_grad():
        return model(ids).logits


@pytest.mark.parametrize(
    ("name", "extra"),
    [
        ("full", []),
        (
            "lora",
            ["--student.train", "lora", "--lora.rank", "4", "--student.pad_vocab_multiple", "64"],
        ),
        ("untied", ["--student.output_embeddings", "untie"]),
    ],
)
def test_export_equals_the_trained_model(script, base_arguments, tmp_path, name, extra):
    from tokenkit.training.restore import load_run

    run, output = tmp_path / "run", tmp_path / "exported"
    argv = [*base_arguments, "--job.output_dir", str(run), "--checkpoint.enable", "true",
            "--training.steps", "2", *extra]  # fmt: skip
    if name == "untied":
        tied = save_tiny(
            tmp_path / "m", "llama", vocab_size=1505, num_hidden_layers=3, tie_word_embeddings=True
        )
        argv += ["--student.model", str(tied)]
    train(argv, 1, tmp_path / "log")
    script("export", "--run", run, "--output", output)

    tokenizer = AutoTokenizer.from_pretrained(output)
    text = "Hello there, def f(x): return x"
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    assert ids[0].tolist() == load_tokenizer(SPEC_B).encode("<|<bos>|>" + text).tolist()
    _, _, student, _ = load_run(run)
    with torch.no_grad():
        expected = student.vocabulary.logits(student(Sequences.of(ids), ()).hidden)
    torch.testing.assert_close(plain_logits(output, ids), expected, atol=1e-4, rtol=1e-4)
    _, _, start, _ = load_run(run, step=0)
    assert (start.vocabulary.input - student.vocabulary.input).abs().max() > 1e-5


@pytest.mark.parametrize(("target", "rows"), [("", 1600), (SPEC_B, len(load_tokenizer(SPEC_B)))])
def test_export_keeps_rows_without_token_of_an_own_tokenizer(
    script, base_arguments, tmp_path, target, rows
):
    model = save_tiny(tmp_path / "m", "llama", vocab_size=1600)
    run, output = tmp_path / "run", tmp_path / "exported"
    argv = [*base_arguments, "--job.output_dir", str(run), "--student.model", str(model),
            "--student.target_tokenizer", target, "--student.pad_vocab_multiple", "64",
            "--training.steps", "1", "--checkpoint.enable", "true"]  # fmt: skip
    train(argv, 1, tmp_path / "log")
    script("export", "--run", run, "--output", output)
    exported = AutoModelForCausalLM.from_pretrained(output)
    assert exported.config.vocab_size == rows
    if not target:
        size, source = len(load_tokenizer(SPEC_A)), AutoModelForCausalLM.from_pretrained(model)
        assert torch.equal(exported.lm_head.weight[size:], source.lm_head.weight[size:])
        assert not torch.equal(exported.lm_head.weight[:size], source.lm_head.weight[:size])


@pytest.mark.parametrize("family", FAMILIES)
def test_zett_keeps_the_backbone(script, family, tmp_path):
    """Moving to the same tokenizer gives the same logits, loaded by plain transformers."""
    model = save_tiny(tmp_path / "m", family, vocab_size=1505)
    output = tmp_path / "out"
    script("zett", "--model", model, "--tokenizer", SPEC_A, "--target", SPEC_A, "--output", output)
    ids = torch.randint(5, 1500, (2, 12))
    torch.testing.assert_close(
        plain_logits(output, ids), plain_logits(model, ids), atol=1e-5, rtol=1e-5
    )


def test_zett_to_another_tokenizer(script, tiny_llama, tmp_path, capsys):
    output = tmp_path / "out"
    script("zett", "--model", tiny_llama, "--tokenizer", SPEC_A, "--target", SPEC_B,
           "--output", output)  # fmt: skip
    assert "averaged" in capsys.readouterr().out
    model = AutoModelForCausalLM.from_pretrained(output)
    tokenizer = AutoTokenizer.from_pretrained(output)
    assert model.config.vocab_size == len(tokenizer) == len(load_tokenizer(SPEC_B))
    assert model.config.eos_token_id == tokenizer.eos_token_id
    generated = model.generate(**tokenizer("def f", return_tensors="pt"), max_new_tokens=3)
    assert generated.shape[1] > 3


def test_output_folder_is_never_overwritten(script, tiny_llama, tmp_path):
    (tmp_path / "keep").write_text("precious")
    with pytest.raises(Exception, match="already exists and is not empty"):
        script("zett", "--model", tiny_llama, "--tokenizer", SPEC_A, "--target", SPEC_B,
               "--output", tmp_path)  # fmt: skip
    assert (tmp_path / "keep").read_text() == "precious"


def test_eval_bpb_equals_transformers(script, tiny_llama, texts_file, tmp_path, capsys):
    script("eval_bpb", "--model", tiny_llama, "--tokenizer", SPEC_A, "--data", texts_file,
           "--max-documents", 5, "--max-bytes", 4096, "--json", tmp_path / "r.json")  # fmt: skip
    ours = json.loads((tmp_path / "r.json").read_text())["bits_per_byte"]
    model = AutoModelForCausalLM.from_pretrained(tiny_llama).eval()
    tok = load_tokenizer(SPEC_A)
    bits, size = 0.0, 0
    for line in texts_file.read_text().splitlines()[:5]:
        row = json.loads(line)
        text = row.get("text") or "\n".join(m["content"] for m in row["messages"])
        ids = torch.tensor([[tok.bos_id, *tok.encode(text).tolist()]])
        with torch.no_grad():
            loss = model(ids, labels=ids).loss
        bits += loss.item() * (ids.shape[1] - 1) / torch.log(torch.tensor(2.0)).item()
        size += len(text.encode())
    assert ours == pytest.approx(bits / size, rel=1e-4)


def test_eval_runs_lm_eval_offline(script, tiny_llama, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    model = tmp_path / "model"
    script(
        "zett", "--model", tiny_llama, "--tokenizer", SPEC_A, "--target", SPEC_B, "--output", model
    )
    script("eval", "--model", model, "--tasks", "tokenkit_arithmetic", "--include-path",
           "tests/assets/lm_eval", "--limit", 6, "--output", tmp_path / "r.json")  # fmt: skip
    assert "tokenkit_arithmetic" in capsys.readouterr().out
    result = json.loads((tmp_path / "r.json").read_text())["results"]["tokenkit_arithmetic"]
    assert 0.0 <= result["acc,none"] <= 1.0


def test_eval_opens_a_run_that_is_not_exported(script, base_arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    run = tmp_path / "run"
    train([*base_arguments, "--job.output_dir", str(run), "--checkpoint.enable", "true",
           "--training.steps", "2"], 1, tmp_path / "log")  # fmt: skip
    script("export", "--run", run, "--output", tmp_path / "exported")
    tasks = ["--tasks", "tokenkit_arithmetic,tokenkit_documents", "--include-path",
             "tests/assets/lm_eval", "--limit", 2, "--log-samples"]  # fmt: skip
    for name, model in (("a", run), ("b", tmp_path / "exported")):
        script("eval", "--model", model, *tasks, "--output", tmp_path / f"{name}.json")
    found = [(tmp_path / f"{name}.samples.jsonl").read_text() for name in "ab"]
    assert found[0] == found[1] and len(found[0].splitlines()) == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--batch-size", "many"], "--batch-size: 'many' is not an integer"),
        (["--limit", "0"], "--limit: '0' is not a number above 0"),
        (["--log-samples"], "--log-samples needs --output"),
        (["--include-path", "/no/such"], "--include-path '/no/such' is not a folder"),
        (["--output", str(ROOT / "README.md")], "README.md' already exists"),
        (["--model", "/no/such"], "--model: model folder '/no/such' does not exist"),
    ],
)
def test_eval_refuses(script, tiny_llama, monkeypatch, options, message):
    monkeypatch.chdir(ROOT)
    argv = ["--model", tiny_llama, "--tasks", "tokenkit_arithmetic"]
    if "--include-path" not in options:
        argv += ["--include-path", "tests/assets/lm_eval"]
    with pytest.raises(Exception, match=message):
        script("eval", *argv, *options)


def test_eval_names_an_unknown_task(script, tiny_llama):
    with pytest.raises(Exception, match="no task 'arc_eassy'"):
        script("eval", "--model", tiny_llama, "--tasks", "arc_eassy")


def test_cached_teacher_equals_a_live_one(base_arguments, tmp_path):
    from tests.launch import read_losses

    cache = tmp_path / "cache"
    argv = [*base_arguments, "--training.steps", "3"]
    command = [sys.executable, "scripts/cache_teacher.py", "--output", str(cache), *argv]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    for name, extra in (("live", []), ("cached", ["--teacher.cache", str(cache)])):
        (tmp_path / name).mkdir()
        train([*argv, "--job.output_dir", str(tmp_path / name), *extra], 1, tmp_path / name / "log")
    assert read_losses(tmp_path / "cached") == pytest.approx(
        read_losses(tmp_path / "live"), rel=1e-6
    )


@pytest.mark.parametrize(
    "script_name", ["export", "zett", "eval_bpb", "eval", "quickstart", "cache_teacher"]
)
def test_help(script_name):
    command = [sys.executable, str(ROOT / "scripts" / f"{script_name}.py"), "--help"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and "--output" in done.stdout + "--output" * (
        script_name == "eval_bpb"
    )
