"""No command takes or makes a model, a cache or a figure with NaN or infinity in it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from tests.cli.conftest import ROOT
from tests.launch import SPEC_A, SPEC_B, train
from tests.test_bad_inputs import run_badly
from tokenkit.errors import ConfigError, ModelError
from tokenkit.models.causal_lm import open_source_model
from tokenkit.training.checkpoint.files import write_safetensors
from tokenkit.training.teacher_cache.shards import Shard

NAN, INF = float("nan"), float("inf")
LAYER, EMBEDDING = "model.layers.1.mlp.up_proj.weight", "model.embed_tokens.weight"


@pytest.fixture
def changed(tiny_llama, tmp_path):
    """Copies of the tiny Llama with one tensor changed."""

    def change(name, function):
        folder = tmp_path / "changed"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(tiny_llama, folder)
        for path in folder.glob("*.safetensors"):
            tensors = load_file(path)
            if name in tensors:
                function(tensors[name])
                save_file(tensors, path, metadata={"format": "pt"})
                return folder
        raise KeyError(name)

    return change


def put(value, place=-1):
    def change(tensor):
        tensor.view(-1)[place] = value

    return change


@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("name", [LAYER, EMBEDDING, "lm_head.weight"])
def test_a_tensor_is_refused_by_name(changed, name, value):
    source = open_source_model(str(changed(name, put(value))))
    with pytest.raises(ModelError, match=rf"safetensors': tensor '{name}' holds NaN or infinity"):
        source.weights.check()
    assert source.weights["model.norm.weight"].isfinite().all()  # others can be read


@pytest.mark.slow
@pytest.mark.parametrize("name", [LAYER, EMBEDDING])
def test_training_on_it(changed, base_arguments, tmp_path, name):
    argv = [*base_arguments, "--student.model", str(changed(name, put(NAN))),
            "--training.micro_batch_size", "4",
            "--job.output_dir", str(tmp_path / "run")]  # fmt: skip
    assert f"tensor '{name}' holds NaN" in run_badly(argv, 2, tmp_path / "log")
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.slow
def test_no_command_reads_it(changed, script, texts_file, tmp_path):
    model, output = changed(LAYER, put(NAN)), tmp_path / "out"
    refused = pytest.raises(ModelError, match=f"tensor '{LAYER}' holds NaN")
    with refused:
        script("zett", "--model", model, "--tokenizer", SPEC_A, "--target", SPEC_B,
               "--output", output)  # fmt: skip
    with refused:
        script("eval_bpb", "--model", model, "--tokenizer", SPEC_A, "--data", texts_file,
               "--json", output)  # fmt: skip
    with refused:
        script("eval", "--model", model, "--tasks", "tokenkit_arithmetic", "--include-path",
               ROOT / "tests/assets/lm_eval", "--output", output)  # fmt: skip
    assert not output.exists()


def test_a_new_row_that_overflows(changed, script, tmp_path):
    """Rows that are finite, and whose mean is not."""
    model, output = changed(EMBEDDING, lambda tensor: tensor.fill_(3e38)), tmp_path / "out"
    with pytest.raises(ModelError, match=f"tensor '{EMBEDDING}' holds NaN or inf.*no model is"):
        script("zett", "--model", model, "--tokenizer", SPEC_A, "--target", SPEC_B,
               "--method", "mean", "--output", output)  # fmt: skip
    assert not list(tmp_path.glob("out*"))


def test_bits_per_byte_that_overflow(changed, script, texts_file, tmp_path):
    model = changed("model.norm.weight", lambda tensor: tensor.fill_(3e38))
    with pytest.raises(ModelError, match=rf"'{model}' gives nan bits per byte"):
        script("eval_bpb", "--model", model, "--tokenizer", SPEC_A, "--data", texts_file,
               "--max-documents", 2, "--json", tmp_path / "out")  # fmt: skip
    assert not (tmp_path / "out").exists()


def test_a_comparison_that_overflows(changed, script, texts_file, tmp_path):
    model = changed("model.norm.weight", lambda tensor: tensor.fill_(3e38))
    with pytest.raises(ModelError, match=rf"'{model}' gives nan bits for a text"):
        script("compare", model, "--tokenizers", SPEC_A, "--data", texts_file, "--max-documents",
               2, "--own-texts", 0, "--sample-tokens", 3, "--output", tmp_path / "out")  # fmt: skip
    assert not (tmp_path / "out").exists()


def test_results_that_are_no_numbers():
    from tokenkit.cli.eval import check_finite

    check_finite({"results": {"t": {"alias": "t", "acc,none": 0.5, "acc_stderr,none": NAN}}})
    with pytest.raises(ModelError, match="task 't': perplexity is inf"):
        check_finite({"results": {"t": {"acc,none": 0.5, "perplexity,none": INF}}})


@pytest.mark.slow
def test_an_export_that_overflows(changed, base_arguments, script, tmp_path):
    """In float16, and only there."""
    argv = [*base_arguments, "--student.model", str(changed(LAYER, put(1e5))), "--training.steps",
            "1", "--checkpoint.enable", "true",
            "--job.output_dir", str(tmp_path / "run")]  # fmt: skip
    train(argv, 1, tmp_path / "log")
    arguments = ["export", "--run", tmp_path / "run", "--output"]
    with pytest.raises(ModelError, match=rf"'{LAYER}' has values up to 1e\+05, which float16 can"):
        script(*arguments, tmp_path / "half", "--dtype", "float16")
    assert not list(tmp_path.glob("half*"))
    script(*arguments, tmp_path / "brain", "--dtype", "bfloat16")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "brain")
    assert all(parameter.isfinite().all() for parameter in model.parameters())


@pytest.mark.slow
def test_a_cache_that_would_hold_it(changed, base_arguments, tmp_path):
    model = changed("model.norm.weight", lambda tensor: tensor.fill_(3e38))
    argv = [*base_arguments, "--student.model", str(model), "--training.steps", "1"]
    command = [sys.executable, "scripts/cache_teacher.py", "--output", str(tmp_path / "out"), *argv]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""}, capture_output=True,
        text=True,
    )  # fmt: skip
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 2 and len(lines) == 1, done.stderr[-2000:]
    assert "texts.jsonl:" in lines[0] and "log-probs of this row are not finite" in lines[0]
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize("column", [0, 1])
@pytest.mark.parametrize(("place", "row"), [(0, 1), (2, 1), (3, 2), (8, 4)])
@pytest.mark.parametrize("value", [NAN, -INF])
def test_a_cache_that_holds_it(tmp_path, column, place, row, value):
    scores = -torch.ones(9, 2)
    tensors = {
        "lengths": torch.tensor([4, 3, 1, 5], dtype=torch.int16),
        "checks": torch.zeros(4, dtype=torch.uint8), "scores": scores,
    }  # fmt: skip

    def shard():
        path = tmp_path / "shard"
        digest = write_safetensors(path, tensors)
        return Shard(path, {"bytes": path.stat().st_size, "hash": digest, "tokens": 13}, 4)

    assert shard().row(1).tolist() == [[-1, -1]] * 2
    scores[place, column] = value
    with pytest.raises(ConfigError, match=f"a log-prob of its row {row} of 4 is NaN or infinity"):
        shard()
