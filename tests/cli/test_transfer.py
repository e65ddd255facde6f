"""The whole main job as one command: what it says first, what it makes, and that it goes on."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.launch import SPEC_A, TOKENIZERS
from tests.models.tiny import save_tiny
from tokenkit.cli.transfer_settings import ON_CPU, learning_rate
from tokenkit.config import load_config
from tokenkit.errors import TokenkitError
from tokenkit.tokenizers import load_tokenizer

ROOT = Path(__file__).parents[2]
TARGET = TOKENIZERS / "bpe_b"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A model with its tokenizer, as they lie on the hub."""
    folder = tmp_path_factory.mktemp("transfer") / "m"
    save_tiny(folder, "llama", vocab_size=1505, max_position_embeddings=512)
    load_tokenizer(SPEC_A).save(folder)
    return folder


@pytest.fixture
def dry_run(script, folder, tmp_path, capsys):
    """What the command says it would do, and the settings it stands for."""

    def run(*arguments):
        given = [folder, "--to", TARGET, "--output", tmp_path / "out", "--dry-run", *arguments]
        script("transfer", *given)
        printed = capsys.readouterr().out
        assert not (tmp_path / "out").exists()
        (tmp_path / "made.toml").write_text(printed[printed.index("# What `tokenkit transfer`") :])
        return printed, load_config(["--job.config_file", str(tmp_path / "made.toml")])

    return run


def test_what_it_will_do_is_said_first(dry_run, texts_file):
    printed, config = dry_run("--data", texts_file, "--steps", 7)
    assert f"{texts_file} (70%), texts of its own (30%)" in printed
    assert re.search(r"^memory +\d+\.\d GiB of \d+$", printed, re.M)
    assert re.search(r"^time +about \d+ minutes", printed, re.M)
    assert config.training.steps == 7 and config.training.batch_size == ON_CPU.batch_size
    assert config.data.weights == [0.7, 0.3] and config.loss.names == ["alm_unconstrained"]


def test_without_data_it_reads_what_the_model_writes(dry_run, tmp_path):
    printed, config = dry_run()
    own = tmp_path / "out" / "texts"
    assert config.data.train == [str(own / "own.jsonl")]
    assert config.data.validation == [str(own / "held_out.jsonl")]
    assert "texts of its own (100%)" in printed


def test_settings_of_training_are_understood(dry_run):
    _, config = dry_run("--optimizer.weight_decay", "0.1", "--loss.names=sft,alm_unconstrained")
    assert config.optimizer.weight_decay == 0.1
    assert config.loss.names == ["sft", "alm_unconstrained"]


def test_bytes(script, folder, tmp_path, capsys):
    given = [folder, "--to", "bytes", "--output", tmp_path / "out", "--dry-run"]
    script("transfer", *given, "--length", 64)
    printed = capsys.readouterr().out
    assert "expand_input_ids = true" in printed and ":conversion=byte" in printed
    assert "max_teacher_length = 64\nmax_student_length = 256" in printed


def test_wide_models_learn_slowly():
    assert learning_rate(6e-4, 576) == learning_rate(6e-4, 64) == 6e-4
    assert learning_rate(6e-4, 4096) == pytest.approx(6e-4 * 576 / 4096, rel=0.05)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere/at/all", "--to", TARGET], "MODEL: model folder 'nowhere/at/all' does not"),
        (["{m}", "--to", "no/such/one"], "--to: tokenizer folder 'no/such/one' does not exist"),
        (["{m}", "--to", TARGET, "--data", "no.jsonl"], "data.train: .*no.jsonl\" does not exist"),
        (["{m}", "--to", TARGET, "--own-texts", 0], "--own-texts 0 leaves nothing to train on"),
        (["{m}", "--to", TARGET, "--stepz", 3], "unrecognized arguments: --stepz"),
        (["{m}", "--to", TARGET, "--training.stepz=3"], "unknown key 'training.stepz'"),
    ],
)  # fmt: skip
def test_bad_input(script, folder, tmp_path, arguments, message):
    given = [str(folder) if a == "{m}" else a for a in arguments]
    with pytest.raises(TokenkitError, match=message):
        script("transfer", *given, "--output", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def plain_bits_per_byte(model: Path, texts: list[str]) -> float:
    """As plain transformers scores them, each text behind BOS."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    loaded = AutoModelForCausalLM.from_pretrained(model, dtype="float32")
    bits = 0.0
    for text in texts:
        ids = [tokenizer.bos_token_id, *tokenizer(text, add_special_tokens=False)["input_ids"]]
        ids = torch.tensor([ids])
        with torch.no_grad():
            bits += loaded(ids, labels=ids).loss.item() * (ids.shape[1] - 1) / math.log(2)
    return bits / sum(len(text.encode()) for text in texts)


@pytest.mark.slow
@pytest.mark.usefixtures("forked_stages")
def test_a_model_is_moved_and_the_same_command_goes_on(
    folder, script, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    given = [folder, "--to", TARGET, "--output", "out", "--length", "48", "--own-texts", "12"]
    first = subprocess.run(
        [sys.executable, ROOT / "scripts/transfer.py", *given, "--steps", "4"],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
    )  # fmt: skip

    def again(*arguments):
        script("transfer", *given, *arguments)
        return capsys.readouterr().out

    assert first.returncode == 0, first.stdout[-2000:] + first.stderr[-2000:]
    assert "\r" not in first.stdout + first.stderr  # no bars in a file
    assert "step     4" in first.stderr
    out = tmp_path / "out"
    printed = re.findall(r"^  (?:teacher|new|after)[a-z, ]+ (\d+\.\d{4})$", first.stdout, re.M)
    lines = (out / "texts" / "held_out.jsonl").read_text().splitlines()
    held_out = [json.loads(line)["text"] for line in lines]
    # Training computes in bfloat16, where the machine can.
    assert float(printed[0]) == pytest.approx(plain_bits_per_byte(folder, held_out), rel=0.02)
    found = plain_bits_per_byte(out / "model", held_out)
    assert float(printed[2]) == pytest.approx(found, rel=0.02)
    assert len(AutoTokenizer.from_pretrained(out / "model")) != 1505

    second = again("--steps", "4")
    assert "tokenkit sample-texts" not in second
    assert re.findall(r"after transfer +[\d.]+", second) == re.findall(
        r"after transfer +[\d.]+", first.stdout
    )

    # No optimizer's moments are left: trained weights, once, in fp32.
    checkpoint = out / "run" / "checkpoints" / "step-00000004"
    tensors = load_file(checkpoint / "rank-00000.safetensors")
    assert tensors and not any("exp_avg" in name for name in tensors)
    assert f"needed no more: rm -r {out / 'run' / 'checkpoints'}" in first.stdout

    # Others are refused: the result of four steps stays, and so does the run.
    with pytest.raises(TokenkitError, match="move it away"):
        again("--steps", "5")
    with pytest.raises(TokenkitError, match=r"belongs to another run \(optimizer\.lr was"):
        again("--steps", "4", "--lr", "0.5")
    assert "0.5" not in (out / "transfer.toml").read_text()

    shutil.rmtree(out / "run" / "checkpoints")
    finished = again("--steps", "4")
    assert "finished before: out/model" in finished
    assert "tokenkit train" not in finished.partition("finished before")[2]
    with pytest.raises(TokenkitError, match="of other settings"):
        again("--steps", "5")
