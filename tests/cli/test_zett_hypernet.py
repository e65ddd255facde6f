"""Training a hypernetwork and applying it: the same model, the same bits per byte."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.launch import SPEC_A, SPEC_B, read_metrics, train
from tokenkit.batch import Sequences
from tokenkit.errors import TokenkitError
from tokenkit.tokenizers import load_tokenizer
from tokenkit.training.checkpoint import load_tensors, tensors_to_save, whole_checkpoint
from tokenkit.training.restore import load_run

HYPERNET = [
    "--student.target_tokenizer", "", "--student.train_embeddings", "false",
    "--hypernet.architecture", "transformer", "--hypernet.num_heads", "4",
    "--hypernet.num_layers", "1", "--hypernet.max_surface_length", "4",
    "--hypernet.byte_embeddings", "true",
    "--tokenizer_sampler.enable", "true", "--tokenizer_sampler.size_min", "1100",
    "--tokenizer_sampler.size_max", "1300", "--tokenizer_sampler.size_mean", "1200",
    "--tokenizer_sampler.texts", "16", "--checkpoint.enable", "true", "--training.steps", "3",
    "--eval.interval", "3", "--eval.tokenizers", f"{SPEC_A},{SPEC_B}",
]  # fmt: skip


IDENTITY = ["--hypernet.residual", "false", "--hypernet.identity_steps", "1"]


@pytest.fixture(
    scope="module",
    params=[["none"], ["lora", "--lora.rank", "4"], ["none", *IDENTITY]],
    ids=["none", "lora", "identity phase"],
)
def run(request, base_arguments, texts_file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    argv = [*base_arguments, *HYPERNET, "--student.train", *request.param,
            "--data.validation", str(texts_file), "--job.output_dir", str(folder)]  # fmt: skip
    train(argv, 1, folder / "log")
    return folder


def test_a_trained_hypernet_becomes_a_model_folder(run, script, texts_file, tmp_path, capsys):
    output = tmp_path / "out"
    script("zett", "--method", "hypernet", "--checkpoint", run, "--target", SPEC_B,
           "--output", output, "--text", texts_file)  # fmt: skip
    printed = capsys.readouterr().out
    after = float(re.search(r"([\d.]+) after", printed)[1])
    entries = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    logged = [e for e in entries if "validation/bits_per_byte" in e][-1]  # the first is step 0
    assert after == pytest.approx(logged["validation/bits_per_byte/bpe_b"], abs=2e-5)
    config, source, _, tokenizers = load_run(run)
    phase = ["loss/identity" in metrics for _, metrics in sorted(read_metrics(run).items())]
    assert phase == [step < config.hypernet.identity_steps for step in range(3)]

    model = AutoModelForCausalLM.from_pretrained(output)
    tok = load_tokenizer(SPEC_B)
    assert model.get_input_embeddings().weight.shape[0] == len(tok)
    begin = "<|begin_of_text|>"
    row = source.matrices()[0][tokenizers.source.ids[begin]]
    assert torch.equal(model.get_input_embeddings().weight[tok.ids[begin]], row)


def test_rescalers_come_back_from_a_checkpoint(run):
    _, _, student, _ = load_run(run)
    rescalers = dict(student.vocabulary.hypernet.named_buffers())
    before = {name: buffer.clone() for name, buffer in rescalers.items()}
    for buffer in rescalers.values():
        buffer.zero_()
    load_tensors(whole_checkpoint(run / "checkpoints", 3), tensors_to_save(student, None))
    assert len(rescalers) == 4
    assert all(torch.equal(buffer, before[name]) for name, buffer in rescalers.items())


def test_bad_calls(run, script, tmp_path):
    zett = ["zett", "--target", SPEC_B, "--output", tmp_path / "out"]
    with pytest.raises(TokenkitError, match="--checkpoint goes with --method hypernet"):
        script(*zett, "--method", "hypernet")
    with pytest.raises(TokenkitError, match="--model is that of --checkpoint"):
        script(*zett, "--method", "hypernet", "--checkpoint", run, "--model", "m")
    with pytest.raises(TokenkitError, match="is not a run's output directory"):
        script(*zett, "--method", "hypernet", "--checkpoint", tmp_path)
    with pytest.raises(TokenkitError, match="--model is missing"):
        script(*zett)


@pytest.mark.parametrize("embeddings", ["preserve", "untie"])
def test_a_projected_vocabulary_is_exported(base_arguments, script, tmp_path, embeddings):
    """Distillation with ``[hypernet]`` and without sampling ends in a plain model folder."""
    folder, output = tmp_path / "run", tmp_path / "out"
    folder.mkdir()
    argv = [*base_arguments, "--job.output_dir", str(folder), "--checkpoint.enable", "true",
            "--hypernet.architecture", "transformer", "--hypernet.num_heads", "4",
            "--student.output_embeddings", embeddings, "--training.steps", "3"]  # fmt: skip
    train(argv, 1, folder / "log")
    script("export", "--run", folder, "--output", output)
    _, _, student, _ = load_run(folder)
    ids = torch.tensor([load_tokenizer(SPEC_B).encode("<|<bos>|>def f(x): return").tolist()])
    with torch.no_grad(), student.opened():
        expected = student.vocabulary.logits(student(Sequences.of(ids), ()).hidden)
        found = AutoModelForCausalLM.from_pretrained(output)(ids).logits
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_the_debug_recipe_beats_fvt_on_an_unseen_tokenizer(script, tmp_path, monkeypatch, capsys):
    """Zero-shot by the trained hypernetwork against FVT of the same model, and the random floor."""
    root = Path(__file__).parents[2]
    monkeypatch.chdir(root)
    run = tmp_path / "run"
    run.mkdir()
    train(["--job.config_file", "train_configs/zett_debug.toml", "--job.output_dir", str(run),
           "--metrics.progress", "false"], 1, run / "log")  # fmt: skip
    script("export", "--run", run, "--output", tmp_path / "model", "--step", "0")
    tokenizer_a = "train_configs/debug/tokenizer_a:source=Llama3"
    tokenizer_b = "train_configs/debug/tokenizer_b:source=Qwen2:target=Llama3"

    def after(method: str, *arguments) -> float:
        script("zett", "--method", method, "--target", tokenizer_b, "--output", tmp_path / method,
               "--text", "train_configs/debug/text.jsonl", *arguments)  # fmt: skip
        return float(re.search(r"([\d.]+) after", capsys.readouterr().out)[1])

    given = ("--model", tmp_path / "model", "--tokenizer", tokenizer_a)
    trained = after("hypernet", "--checkpoint", run)
    assert trained < after("fvt", *given) - 0.2
    assert trained < after("random", *given) - 0.2
