"""The whole story in minutes on a laptop CPU, offline: train a small model, change its tokenizer.

    tokenkit quickstart [--zett | --bytes]      (in a checkout: make quickstart [ARGS=--zett])

1. collect Python's own standard library as text; 2. train two different tokenizers; 3. pretrain a
small Llama on the first; 4. transfer it to the second by distilling it into itself; 5. compare
bits per byte on held-out text. With ``--zett``, 4. is to train a hypernetwork that gives the model
any tokenizer, on sampled ones, and 5. compares ways of moving to B without training on it. With
``--bytes``, 4. is to make it read and write bytes. Each part reuses what another has made.
Everything lies under outputs/quickstart; what is finished is reused, and an interrupted training
resumes.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

from tokenkit.cli import stages
from tokenkit.cli.arguments import CommandParser
from tokenkit.cli.quickstart_material import (
    WORDS_A,
    WORDS_B,
    train_tokenizer,
    write_corpus,
    write_model_config,
)
from tokenkit.cli.stages import make, print_gap, print_scores, run, sample
from tokenkit.extras import missing
from tokenkit.shipped import checkout

SPEC_A, SPEC_B = ":source=Llama3", ":source=Qwen2:target=Llama3"
QUICK = ["--training.steps", "8", "--training.batch_size", "4", "--training.micro_batch_size", "4",
         "--eval.max_documents", "4"]  # fmt: skip
QUICK_ZETT = [
    "--hypernet.num_heads", "4",
    "--tokenizer_sampler.size_min", "1000", "--tokenizer_sampler.size_max", "1200",
    "--tokenizer_sampler.size_mean", "1100", "--tokenizer_sampler.texts", "64",
]  # fmt: skip


def train(title: str, recipe: str, output: Path, quick: bool, *overrides: str) -> None:
    """Train by a recipe, in tiny sizes if ``quick``."""
    arguments = ["--job.config_file", recipe, "--job.output_dir", str(output)]
    stages.train(title, output, *arguments, *overrides, *(QUICK if quick else []))


def bits_per_byte(model: Path, spec: str, data: Path) -> float:
    """Bits per byte of an exported model, measured by eval-bpb; kept with it, and goes with it."""
    result = model / "bits_per_byte.json"
    if not result.exists():
        run(f"bits per byte of {model.name}", "eval-bpb", "--model", str(model),
            "--tokenizer", spec, "--data", str(data), "--json", str(result))  # fmt: skip
    return json.loads(result.read_text())["bits_per_byte"]


def report(scores: dict[str, float], student: Path, seconds: float, new_tokens: int = 60) -> None:
    print_scores(scores)
    print_gap(scores)
    print("\nthe exported model, loaded by plain transformers, goes on:\n")
    print(sample(student, "    def __init__(self, ", new_tokens))
    print(f"\nexported model    {student}")
    if not missing("tensorboard"):
        print(f"TensorBoard       tensorboard --logdir {student.parent}")
    print(f"finished in       {seconds / 60:.1f} minutes")


@dataclass(frozen=True)
class Names:
    """What the stages share."""

    folder: Path
    quick: bool
    begin: float  # seconds since the epoch
    spec_a: str
    spec_b: str
    held_out: Path
    data: list[str]  # arguments of training

    def score(self, model: Path, spec: str) -> float:
        return bits_per_byte(model, spec, self.held_out)

    def move(self, method: str, output: Path, *arguments: str) -> Path:
        """The teacher with tokenizer B, its rows made by a method of zett."""
        given = arguments or ("--model", str(self.folder / "teacher"), "--tokenizer", self.spec_a)
        make(f"give it tokenizer B by {method}", "zett", output, "--method", method,
             "--target", self.spec_b, *given)  # fmt: skip
        return output


def pretrain(names: Names) -> None:
    folder = names.folder
    train("1/2 pretrain a small model with tokenizer A", "quickstart_pretrain",
          folder / "pretrain", names.quick, *names.data, "--student.model", str(folder / "config"),
          "--student.tokenizer", names.spec_a)  # fmt: skip
    make("export it", "export", folder / "teacher", "--run", str(folder / "pretrain"))


def transfer(names: Names) -> None:
    """Distill the model into itself with tokenizer B."""
    folder, student = names.folder, names.folder / "student"
    zero_shot = names.move("fvt", folder / "zero_shot")
    train("2/2 transfer it to tokenizer B by distilling it into itself",
          "quickstart_transfer", folder / "transfer", names.quick, *names.data,
          "--student.tokenizer", names.spec_a, "--student.target_tokenizer", names.spec_b,
          "--student.model", str(folder / "teacher"))  # fmt: skip
    make("export the result", "export", student, "--run", str(folder / "transfer"))
    scores = {
        "teacher (tokenizer A)": names.score(folder / "teacher", names.spec_a),
        "zero-shot (tokenizer B, FVT)": names.score(zero_shot, names.spec_b),
        "after transfer (tokenizer B)": names.score(student, names.spec_b),
    }
    report(scores, student, time.time() - names.begin)


def transfer_to_bytes(names: Names) -> None:
    """Distill the model into itself, reading and writing bytes."""
    folder, run_folder = names.folder, names.folder / "bytes"
    student, zero_shot = folder / "student_bytes", folder / "zero_shot_bytes"
    train("2/2 transfer it to bytes by distilling it into itself",
          "quickstart_bytes", run_folder, names.quick, *names.data,
          "--student.tokenizer", names.spec_a,
          "--student.target_tokenizer", f"{names.spec_a}:conversion=byte",
          "--student.model", str(folder / "teacher"))  # fmt: skip
    run_option = ("--run", str(run_folder))
    make("export the start", "export", zero_shot, *run_option, "--step", "0")
    make("export the result", "export", student, *run_option)
    scores = {
        "teacher (tokenizer A)": names.score(folder / "teacher", names.spec_a),
        "zero-shot (bytes)": names.score(zero_shot, str(zero_shot)),
        "after transfer (bytes)": names.score(student, str(student)),
    }
    report(scores, student, time.time() - names.begin, new_tokens=200)


def zero_shot_transfer(names: Names) -> None:
    """Train a hypernetwork on sampled tokenizers and hold it against untrained methods."""
    folder, quick = names.folder, names.quick
    train("2/2 train a hypernetwork on sampled tokenizers", "quickstart_zett",
          folder / "zett", quick, *names.data, "--student.tokenizer", names.spec_a,
          "--student.model", str(folder / "teacher"), "--eval.tokenizers", names.spec_b,
          *(QUICK_ZETT if quick else []))  # fmt: skip
    scores = {"the model itself (tokenizer A)": names.score(folder / "teacher", names.spec_a)}
    for method in ("random", "mean", "focus", "omp", "fvt"):
        moved = names.move(method, folder / f"zero_shot_{method}")
        scores[f"tokenizer B, {method}"] = names.score(moved, names.spec_b)
    given = ("--checkpoint", str(folder / "zett"))
    moved = names.move("hypernet", folder / "zero_shot_hypernet", *given)
    scores["tokenizer B, hypernetwork"] = names.score(moved, names.spec_b)
    print_scores(scores)
    print("=" * 62)
    print("\nno method has seen tokenizer B before; any other can be given the same way:\n")
    print(f"python -m tokenkit zett --method hypernet --checkpoint {folder / 'zett'} --target SPEC")
    print(f"finished in {(time.time() - names.begin) / 60:.1f} minutes")


def main() -> None:
    parser = CommandParser(__doc__)
    parser.add_argument("--output", type=Path, help="folder (outputs/quickstart)")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does it run at all?")
    parts = parser.add_mutually_exclusive_group()
    parts.add_argument("--zett", action="store_true", help="train a hypernetwork for any tokenizer")
    parts.add_argument("--bytes", action="store_true", help="make the model read and write bytes")
    args = parser.parse_args()
    begin, quick = time.time(), args.quick
    os.environ["HF_HUB_OFFLINE"] = "1"
    # The two sizes are different runs, so each has its own folder.
    root = checkout() or Path.cwd()
    default = root / "outputs" / ("quickstart_quick" if quick else "quickstart")
    folder = (args.output or default).resolve()
    if folder.is_relative_to(root):  # short names in what is printed
        folder = folder.relative_to(root)
    os.chdir(root)  # where the package of a checkout is found, wherever one has started

    corpus, held_out = folder / "corpus", folder / "corpus" / "held_out.jsonl"
    write_corpus(corpus, limit=200 if quick else 12000)
    for name, words, size in (("a", WORDS_A, 2048), ("b", WORDS_B, 3072)):
        size = size // 4 if quick else size
        train_tokenizer(corpus / "train.jsonl", folder / f"tokenizer_{name}", words, size)
    write_model_config(folder / "config", quick)
    spec_a, spec_b = f"{folder}/tokenizer_a{SPEC_A}", f"{folder}/tokenizer_b{SPEC_B}"

    data = ["--data.train", str(corpus / "train.jsonl"), "--data.validation", str(held_out)]
    names = Names(folder, quick, begin, spec_a, spec_b, held_out, data)
    pretrain(names)
    part = zero_shot_transfer if args.zett else transfer_to_bytes if args.bytes else transfer
    part(names)
