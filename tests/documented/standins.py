"""Tiny files under the names that commands of the documentation give them, and a run of each."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from tests.documented.shown import ROOT
from tests.documented.table import Here
from tests.evaluation.conftest import save_model
from tests.launch import SPEC_B, TOKENIZERS, train
from tokenkit.config import load_config, save_config
from tokenkit.tokenizers import load_tokenizer

MODELS = {"M", "A", "teacher", "exported/x", "moved", "folder",
          "HuggingFaceTB/SmolLM2-135M-Instruct", "meta-llama/Llama-3.2-3B-Instruct",
          "exported/llama3_to_qwen2", "exported/llama3_to_byte", "exported/gemma2_openmath2",
          "exported/gemma2_gpt2"}  # fmt: skip
OTHER_MODELS = {"B", "C", "zero_shot"}
TOKENIZERS_A = {"S", "gpt2"}
TOKENIZERS_B = {"S2", "T", "Qwen/Qwen2.5-1.5B"}
RUNS = {"outputs/x", "outputs/run", "outputs/my_run", "outputs/old", "outputs/smollm2_to_qwen2",
        "outputs/llama3_to_qwen2", "outputs/llama3_to_byte",
        "outputs/gemma2_from_openmath2_llama"}  # fmt: skip
ROWS = {f"{name}.jsonl" for name in ("file", "held_out", "texts", "text", "a", "b", "wiki", "code")}
PROMPTS = {"prompts.jsonl", "p.jsonl"}
SETTINGS = {"x.toml", "train_configs/x.toml"}
OTHERS = {"prompts.txt", "lockstep.toml"}
KINDS = {
    **dict.fromkeys(MODELS, "model"),
    **dict.fromkeys(OTHER_MODELS, "other_model"),
    **dict.fromkeys(TOKENIZERS_A, "tokenizer_a"),
    **dict.fromkeys(TOKENIZERS_B, "tokenizer_b"),
    **dict.fromkeys(RUNS, "run"),
    **dict.fromkeys(ROWS, "rows.jsonl"),
    **dict.fromkeys(PROMPTS, "prompts.jsonl"),
    **dict.fromkeys(SETTINGS, "x.toml"),
    **{name: name for name in OTHERS},
}
LINKED = ("tests", "examples", "train.py", "run_train.sh", "tokenkit")  # of the checkout
LOCKSTEP = """
[ensemble]
tasks = ["tokenkit_arithmetic"]
include_path = "tests/assets/lm_eval"
limit = 2
[[models]]
model = "A"
[[models]]
model = "B"
"""


def make_stand_ins(folder: Path, texts: Path, arguments: list[str]) -> Path:
    """One of each kind, the run trained from the model; ``arguments`` are those of a small run."""
    spec = "bpe_a:source=Llama3"
    model = save_model(folder / "model", "llama", spec, vocab_size=1600)
    save_model(folder / "other_model", "llama", spec, vocab_size=1600, seed=1)
    load_tokenizer(f"{TOKENIZERS}/{spec}").save(folder / "tokenizer_a")
    load_tokenizer(SPEC_B).save(folder / "tokenizer_b")
    shutil.copy(texts, folder / "rows.jsonl")
    (folder / "prompts.txt").write_text("The sea\ndef f(x):\n")
    (folder / "prompts.jsonl").write_text('{"prompt": "The sea"}\n{"text": "Once"}\n')
    (folder / "lockstep.toml").write_text(LOCKSTEP)
    argv = [*arguments, "--student.model", str(model), "--training.steps", "2"]
    save_config(load_config(argv), folder / "x.toml")
    run = ["--job.output_dir", str(folder / "run"), "--checkpoint.enable", "true"]
    train([*argv, *run], 1, folder / "log")
    return folder


def named(words: list[str]) -> set[str]:
    """Names of stand-ins that a command reads; what it is to write is not among them."""
    read = []
    for before, word in zip(["", *words], words, strict=False):
        if before not in ("--output", "--job.output_dir"):
            read += [part.partition(":")[0].rstrip("/") for part in word.split(",")]
    found = {word for word in read if word in KINDS}
    found |= {"/".join(word.split("/")[:2]) for word in read} & RUNS
    return found | ({"A", "B"} if "lockstep.toml" in found else set())


def lay_out(folder: Path, stand_ins: Path, names: set[str]) -> None:
    """A checkout as the reader has it, with his files in it."""
    for name in LINKED:
        (folder / name).symlink_to(ROOT / name)
    (folder / "train_configs").mkdir()
    for path in (ROOT / "train_configs").iterdir():
        (folder / "train_configs" / path.name).symlink_to(path)
    for name in names:
        source, place = stand_ins / KINDS[name], folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, place)
        else:
            shutil.copy(source, place)


def run(words: list[str], way: Here, folder: Path) -> None:
    """Run a command of ours in a folder; fails with its output if it fails."""
    log = folder / "log"
    if "./run_train.sh" in words:
        _run_shell(words, folder)
        return
    program, arguments = _program(words)
    train(arguments, way.ranks, log, 120, program=program, cwd=folder)


def _run_shell(words: list[str], folder: Path) -> None:
    environment = {**os.environ, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        ["bash", "-c", shlex.join(words)], cwd=folder, env=environment,
        capture_output=True, text=True, timeout=180,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


def _program(words: list[str]) -> tuple[str, list[str]]:
    """The module whose ``main`` a command runs, and its arguments."""
    if "train.py" in words:
        return "train", words[words.index("train.py") + 1 :]
    scripts = [word for word in words if re.fullmatch(r"scripts/\w+\.py", word)]
    start = words.index(scripts[0]) if scripts else words.index("tokenkit") + 1
    command = Path(words[start]).stem.replace("-", "_")
    return "train" if command == "train" else f"tokenkit.cli.{command}", words[start + 1 :]
