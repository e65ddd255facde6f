"""Matrices, bits per byte and runs, on what a user holds."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import AutoModelForCausalLM

import tokenkit as tk
from tests.launch import SPEC_A, SPEC_B, read_metrics, train
from tokenkit.errors import CheckpointError, ConfigError, DataError, ModelError
from tokenkit.tokenizers.roles import context_id

TEXTS = ["One short text.", "Another text, which is longer than the first."]


@pytest.fixture(scope="module")
def toks():
    return tk.load_tokenizer(SPEC_A), tk.load_tokenizer(SPEC_B)


def test_fvt_copies_shared_tokens_and_averages_others(toks):
    source, target = toks
    matrix = torch.randn(len(source), 8, dtype=torch.float64)
    made = tk.transfer_embeddings(matrix, source, target)
    assert made.shape == (len(target), 8) and made.dtype == torch.float64
    token = next(t for t in target.ids if t in source.ids and len(t) > 2 and t.isalpha())
    assert torch.equal(made[target.ids[token]], matrix[source.ids[token]])
    other = next(t for t in target.ids if t not in source.ids and t.isalpha())
    pieces = source.tokenize_bytes(other)
    assert len(pieces) > 1
    torch.testing.assert_close(made[target.ids[other]], matrix[pieces].mean(0))


def test_several_matrices_and_methods(toks):
    matrices = [torch.randn(len(toks[0]), 4) for _ in range(2)]
    made = tk.transfer_embeddings(matrices, *toks, method="mean")
    assert [m.shape for m in made] == [(len(toks[1]), 4)] * 2
    alone = tk.transfer_embeddings(matrices[1], *toks, method="mean")
    assert torch.equal(made[1], alone)
    drawn = [tk.transfer_embeddings(matrices[0], *toks, "random", seed=k) for k in (1, 1, 2)]
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])


def test_wrong_matrices_are_named(toks):
    with pytest.raises(ModelError, match="matrix.*rows for 10 tokens"):
        tk.transfer_embeddings(torch.randn(10, 4), *toks)
    with pytest.raises(ModelError, match=r"matrix is torch.float32 \[5\]"):
        tk.transfer_embeddings(torch.randn(5), *toks)
    with pytest.raises(ConfigError, match="fv.*fvt"):
        tk.transfer_embeddings(torch.randn(len(toks[0]), 4), *toks, method="fv")


@pytest.fixture(scope="module")
def model(tiny_llama):
    return AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32)


def test_bits_per_byte_against_plain_transformers(model, tiny_llama, toks):
    bits, size = 0.0, 0
    for text in TEXTS:
        ids = torch.tensor([[context_id(toks[0]), *toks[0].encode_text(text)]])
        with torch.no_grad():
            bits += model(ids, labels=ids).loss.item() * (ids.shape[1] - 1) / math.log(2)
        size += len(text.encode())
    for given in (model, tiny_llama, str(tiny_llama)):
        assert tk.bits_per_byte(given, toks[0], TEXTS) == pytest.approx(bits / size, rel=1e-5)
    assert tk.bits_per_byte(model, SPEC_A, TEXTS[0]) != pytest.approx(bits / size, rel=1e-5)


def test_bits_per_byte_leaves_the_model_in_its_mode(model):
    model.train()
    tk.bits_per_byte(model, SPEC_A, TEXTS)
    assert model.training
    model.eval()


def test_bits_per_byte_needs_text_and_the_models_tokenizer(model, toks):
    for nothing in ([], [""], ""):
        with pytest.raises(DataError, match="^texts: "):
            tk.bits_per_byte(model, toks[0], nothing)
    small = AutoModelForCausalLM.from_config(model.config)
    small.resize_token_embeddings(64)
    with pytest.raises(ModelError, match="rows for 64 tokens"):
        tk.bits_per_byte(small, toks[0], TEXTS)


@pytest.mark.slow
def test_a_run_is_loaded_measured_and_exported(base_arguments, tmp_path):
    folder = tmp_path / "run"
    argv = [*base_arguments, "--training.steps", "2", "--checkpoint.enable", "true"]
    train([*argv, "--job.output_dir", str(folder)], 1, tmp_path / "log")
    run = tk.load_run(folder)
    assert repr(run).startswith(f"Run('{folder}', its latest checkpoint, ")
    assert f"tokenizer '{SPEC_B}')" in repr(run) and len(repr(run)) < 400
    assert run.config.training.steps == 2 and len(run.tokenizer) != len(run.source_tokenizer)
    assert {line["step"] for line in run.metrics} >= set(read_metrics(folder))
    exported = run.export(tmp_path / "exported")
    plain = AutoModelForCausalLM.from_pretrained(exported)
    rows = run.student.vocabulary.input_matrix[: len(run.tokenizer)]
    assert torch.equal(plain.get_input_embeddings().weight[: len(rows)], rows)
    values = [tk.bits_per_byte(m, run.tokenizer, TEXTS) for m in (folder, exported, plain)]
    assert values == pytest.approx([values[0]] * 3, rel=1e-5)
    (folder / "metrics.jsonl").write_text('{"step": 1}\n{"st')
    assert tk.load_run(folder).metrics == [{"step": 1}]


def test_what_is_no_run(tmp_path):
    with pytest.raises(CheckpointError, match="no config.toml"):
        tk.load_run(tmp_path)
