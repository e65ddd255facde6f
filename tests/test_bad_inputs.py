"""Bad inputs: one clear line that names what to change, a non-zero exit, nothing deleted."""

from __future__ import annotations

import json
import re
import shutil
import time
from pathlib import Path

import pytest

from tests.launch import SPEC_A, SPEC_B, start_training, train

# (name, ranks, overrides, what the line must say)
CASES = [
    ("unknown key", 1, ["--training.stepz", "3"], r"training\.stepz.*steps"),
    ("unknown section", 1, ["--trainning.steps", "3"], r"trainning.*training"),
    ("wrong type", 1, ["--training.steps", "ten"], r"training\.steps.*ten.*int"),
    ("missing config file", 1, ["--job.config_file", "nowhere.toml"], r"nowhere\.toml"),
    ("missing model folder", 1, ["--student.model", "./nowhere/m"], r"student\.model.*nowhere/m"),
    ("unknown family", 1, ["--student.tokenizer", SPEC_A.replace("Llama3", "Lama3")],
     r"Lama3.*Llama3"),
    ("malformed spec", 1, ["--student.target_tokenizer", SPEC_B + ":colour=red"], r"colour"),
    ("missing tokenizer folder", 1, ["--student.tokenizer", "./nowhere/t:source=Llama3"],
     r"nowhere/t"),
    ("teacher cache missing", 1, ["--teacher.cache", "./no_cache"], r"teacher\.cache.*no_cache"),
    ("teacher without tokenizer", 1, ["--teacher.model", "{model}"], r"teacher\.tokenizer"),
    ("batch not divisible", 1, ["--training.micro_batch_size", "3"],
     r"training\.batch_size.*8.*3"),
    ("batch not divisible by ranks", 2, ["--training.micro_batch_size", "8"],
     r"training\.batch_size"),
    ("tensor parallel not dividing the world", 2, ["--parallelism.tensor_parallel_degree", "3"],
     r"tensor_parallel_degree.*3"),
    ("tensor parallel not dividing the heads", 4,
     ["--parallelism.tensor_parallel_degree", "4"], r"tensor_parallel_degree.*num_key_value_heads"),
    ("unknown loss", 1, ["--loss.names", "sft,alm_unconstraint"],
     r"alm_unconstraint.*alm_unconstrained"),
    ("unknown diff_fn", 1, ["--alm.diff_fn", "binary_c"], r"alm\.diff_fn.*binary_ce"),
    ("weights of another length", 1, ["--loss.weights", "1.0"], r"loss\.weights"),
    ("missing data file", 1, ["--data.train", "nowhere.jsonl"], r"data\.train.*nowhere\.jsonl"),
    ("unreadable data row", 1, ["--data.train", "{bad_json}"], r"bad\.jsonl.*3"),
    ("unknown role", 1, ["--data.train", "{bad_role}"], r"role\.jsonl.*2.*narrator"),
    ("unreadable row in a worker", 1, ["--data.train", "{bad_json}", "--data.num_workers", "1"],
     r"bad\.jsonl.*3"),
    ("unreadable row on two ranks", 2,
     ["--data.train", "{bad_json}", "--training.micro_batch_size", "4"], r"bad\.jsonl.*3"),
    ("no such checkpoint", 1, ["--checkpoint.enable", "true", "--checkpoint.load_step", "7"],
     r"checkpoint\.load_step.*7"),
    ("unbiased without biases", 1, ["--loss.names", "alm_unbiased"], r"alm\.pair_bias"),
    ("gradient weights without a trained layer", 1,
     ["--student.train", "none", "--loss.aggregation", "approx_gradmag"], r"approx_gradmag"),
]  # fmt: skip


def run_badly(argv: list[str], world: int, log: Path) -> str:
    """The error line of a run that must fail within seconds."""
    begin = time.time()
    processes = start_training(argv, world, log)
    codes = []
    for process in processes:
        process.join(30)
    # torchrun ends the other ranks once one has failed.
    for process in processes:
        if process.is_alive():
            process.kill()
        else:
            codes.append(process.exitcode)
    text = log.read_text()
    assert codes and all(codes), f"exit codes {codes}\n{text[-3000:]}"
    assert time.time() - begin < 60
    assert "Traceback" not in text, text[-3000:]
    errors = [line for line in text.splitlines() if line.startswith("error: ")]
    assert errors, text[-3000:]
    assert len(set(errors)) == 1, errors
    return errors[0]


@pytest.fixture
def files(tmp_path, tiny_llama):
    good = json.dumps({"text": "fine"})
    (tmp_path / "bad.jsonl").write_text(f'{good}\n{good}\n{{"text": "cut\n')
    turn = json.dumps({"messages": [{"role": "narrator", "content": "Once"}]})
    (tmp_path / "role.jsonl").write_text(f"{good}\n{turn}\n")
    return {
        "bad_json": str(tmp_path / "bad.jsonl"),
        "bad_role": str(tmp_path / "role.jsonl"),
        "model": str(tiny_llama),
    }


@pytest.mark.parametrize(
    ("world", "overrides", "says"), [pytest.param(w, o, s, id=name) for name, w, o, s in CASES]
)
def test_one_clear_line(world, overrides, says, base_arguments, files, tmp_path):
    overrides = [o.format(**files) if o.startswith("{") else o for o in overrides]
    argv = [*base_arguments, "--job.output_dir", str(tmp_path / "run"), *overrides]
    line = run_badly(argv, world, tmp_path / "log")
    assert re.search(says, line), line


@pytest.fixture(scope="module")
def finished_run(base_arguments, tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished") / "run"
    argv = [*base_arguments, "--checkpoint.enable", "true", "--checkpoint.interval", "1",
            "--training.steps", "2", "--job.output_dir", str(folder)]  # fmt: skip
    train(argv, 1, folder.parent / "log")
    return argv, folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_output_directory_of_another_run(finished_run, tmp_path):
    argv, folder = finished_run
    before = contents(folder)
    line = run_badly([*argv, "--optimizer.lr", "0.5"], 1, tmp_path / "log")
    assert re.search(r"belongs to another run.*optimizer\.lr.*0\.5.*overwrite", line), line
    assert contents(folder) == before


@pytest.mark.parametrize("damaged", ["rank-00000.safetensors", "random-00000.json"])
def test_corrupt_checkpoints(finished_run, damaged, tmp_path):
    """One is passed over; where all are damaged nothing is touched."""
    argv, original = finished_run
    folder = tmp_path / "run"
    shutil.copytree(original, folder)
    for path in sorted((folder / "checkpoints").glob(f"*/{damaged}")):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])
    before = contents(folder / "checkpoints")
    argv = [*argv, "--job.output_dir", str(folder), "--training.steps", "3"]
    line = run_badly(argv, 1, tmp_path / "log")
    assert re.search(r"no whole checkpoint.*step-00000002' is damaged.*and 1 more", line), line
    assert contents(folder / "checkpoints") == before
