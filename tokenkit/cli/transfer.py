"""Move a model to another tokenizer, whole: texts, distillation, bits per byte, export.

    tokenkit transfer HuggingFaceTB/SmolLM2-135M-Instruct --to Qwen/Qwen2.5-0.5B --output moved

New rows are made by FVT, then the model distills itself across the tokenizers (ALM), by the recipe
that kept most of a real model (see README.md). Part of what it reads are texts that it writes
itself, all of it without ``--data``; bits per byte are measured on other such texts, or on
``--validation``. ``--to bytes`` makes it read and write bytes.

What it will do and cost is said first (``--dry-run``: only that). All of it lies in ``--output``:
model/ loads in plain transformers, transfer.toml is what ``tokenkit train`` goes on from. The same
command again resumes what was interrupted. Further ``--section.key value`` are as in ``tokenkit
train``.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from tokenkit.cli.arguments import CommandParser, at_least, not_negative, said_of, with_dashes
from tokenkit.errors import ConfigError
from tokenkit.extras import missing
from tokenkit.io import check_place, new_file
from tokenkit.launcher import wait_passively

if TYPE_CHECKING:
    from tokenkit.cli.transfer_costs import Costs
    from tokenkit.config import Config

WRITTEN, MODEL, OWN = "transfer.toml", "model", "own.jsonl"  # in the output folder
HEAD = "# What `tokenkit transfer` ran; go on from here with `tokenkit train --job.config_file`."
SEPARATOR = "<|endoftext|>"
PROCESS = 1.5  # GiB on a CPU, of Python, libraries and data (measured with SmolLM2-135M)
PIECE = 60  # characters of a text that the model goes on from


def parse_arguments() -> tuple[argparse.Namespace, list[str]]:
    """The command's own options, and settings of training."""
    parser = CommandParser(__doc__)
    add = parser.add_argument
    add("model", metavar="MODEL", help="model folder, hub id or run")
    add("--to", required=True, metavar="TOKENIZER", help="folder, hub id or spec; or bytes")
    add("--output", type=Path, required=True, help="folder to make, or to go on in")
    add("--data", nargs="+", default=[], metavar="X", help="files, folders or hf:name to read")
    add("--validation", nargs="+", default=[], metavar="X", help="texts to measure on")
    add("--tokenizer", help="spec of the model's own tokenizer (default: the model's folder)")
    add("--steps", type=at_least(1), help="of training (default: 180; on a GPU 1000)")
    add("--batch-size", type=at_least(1), help="rows a step (8; on a GPU 64)")
    add("--length", type=at_least(8), help="tokens a row (128; on a GPU 512)")
    add("--lr", type=not_negative, help="peak learning rate (default: by the model's width)")
    add("--own-texts", type=at_least(0), metavar="N",
        help="texts by the model itself to train on (default: 30%% of the rows, without --data "
        "all; at most 480)")  # fmt: skip
    add("--dry-run", action="store_true", help="say what would be done, and stop")
    parser.add_device()
    args, more = parser.parse_known_args([with_dashes(a) for a in sys.argv[1:]])
    wrong = [a for a in more if a.startswith("--") and "." not in a.partition("=")[0]]
    if wrong:
        parser.error(f"unrecognized arguments: {' '.join(wrong)}")
    return args, more


def check(args: argparse.Namespace) -> None:
    """Refuse what cannot work before anything is loaded."""
    check_place(args.output, "--output", "folder")
    if args.output.is_dir() and any(args.output.iterdir()) and not (args.output / WRITTEN).exists():
        raise ConfigError(
            f"--output '{args.output}' is not empty and holds no transfer; choose a new folder"
        )
    if args.own_texts == 0 and not args.data:
        raise ConfigError("--own-texts 0 leaves nothing to train on: give --data files or hf:name")
    if args.to == "bytes":
        args.to = f"{args.tokenizer or args.model}:conversion=byte"


def plan(args: argparse.Namespace, more: list[str], folder: Path) -> Config:
    """The settings of the run, after saying what they will do and cost.

    Raises:
        TokenkitError: if model, tokenizers, data or settings cannot be used.
    """
    from tokenkit.cli.transfer_costs import costs_of
    from tokenkit.cli.transfer_settings import amount_of, settings
    from tokenkit.config import validate, whole_value
    from tokenkit.evaluation.device import usable_device
    from tokenkit.models.checks import read_config
    from tokenkit.models.weights import resolve_model_folder
    from tokenkit.tokenizers import load_tokenizer

    device = usable_device(args.device)
    with said_of("MODEL"):
        width = read_config(resolve_model_folder(args.model)).hidden_size
    with said_of("--tokenizer" if args.tokenizer else "MODEL"):
        own_tok = load_tokenizer(whole_value(args.tokenizer or args.model))
    with said_of("--to"):
        new_tok = load_tokenizer(whole_value(args.to), like=own_tok)
    gpu = device.type == "cuda"
    config = settings(args, folder, width, amount_of(args, gpu), more, gpu)
    checked = config.copy()
    for names in (checked.data.train, checked.data.validation):
        # Texts that are still to be written
        names[:] = ["hf:own" if Path(name).is_relative_to(folder) else name for name in names]
    validate(checked, 1)
    costs = costs_of(config, device, len(own_tok), len(new_tok))
    print("\n".join(describe(args, config, costs, device.type)), flush=True)
    return config


def describe(args: argparse.Namespace, config: Config, costs: Costs, device: str) -> Iterator[str]:
    """What will be done, line by line."""
    training, data = config.training, config.data
    old, new = costs.tokens
    yield f"model       {args.model} ({old:,} tokens), to {args.to} ({new:,})"
    total, trained = costs.sizes.total / 1e6, costs.sizes.trained / 1e6
    yield f"parameters  {total:,.0f} M, {trained:,.0f} M of them trained; it teaches itself"
    weights = data.weights or [1.0]
    sources = [
        f"{'texts of its own' if Path(name).name == OWN else name} ({weight:.0%})"
        for name, weight in zip(data.train, weights, strict=True)
    ]
    yield f"data        {', '.join(sources)}"
    yield (
        f"training    {training.steps} steps of {training.batch_size} rows of "
        f"{training.max_student_length} tokens, {training.dtype} on {device}"
    )
    needed = costs.memory + (PROCESS if device == "cpu" else 0.0)
    small = "  TOO LITTLE: give a smaller --batch-size" if needed > costs.room else ""
    yield f"memory      {needed:.1f} GiB of {costs.room:.0f}{small}"
    if costs.seconds is not None:
        minutes = costs.seconds / 60
        shown = f"{minutes:.0f} minutes" if minutes < 120 else f"{minutes / 60:.1f} hours"
        yield f"time        about {shown} of training; texts, measuring, export come on top"
    yield f"result      {args.output / MODEL}"


def write_texts(config: Config, folder: Path, own: int) -> None:
    """Texts of the model's own, to train on and to measure on, unless they are there."""
    from tokenkit.cli import stages
    from tokenkit.cli.transfer_settings import HELD_OUT
    from tokenkit.tokenizers import load_tokenizer

    texts = folder / "texts"
    measured = str(texts / "held_out.jsonl") in config.data.validation
    count = own + (HELD_OUT if measured else 0)
    if not count or (texts / OWN).exists():
        return
    tok = load_tokenizer(config.student.tokenizer)
    # Where a tokenizer has no BOS, what stands between documents of pretraining begins one.
    between = not tok.text_bos and SEPARATOR in tok.ids
    sampled = texts / "sampled.jsonl"
    texts.mkdir(parents=True, exist_ok=True)
    stages.make("let the model write texts of its own", "sample-texts", sampled,
                "--model", config.student.model, "--count", str(count),
                "--max-tokens", str(round(1.1 * config.training.max_teacher_length)),
                *(["--start", SEPARATOR] if between else []))  # fmt: skip
    lines = sampled.read_text(encoding="utf-8").splitlines(keepends=True)
    held_out = len(lines) * (count - own) // count
    for name, part in (("held_out.jsonl", lines[:held_out]), (OWN, lines[held_out:])):
        with new_file(texts / name) as file:
            file.writelines(part)


def megabytes(folder: Path) -> str:
    """What the files of a folder take."""
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return f"{size / 1e6:,.1f} MB"


def report(config: Config, folder: Path, minutes: float) -> None:
    """Bits per byte, how the model goes on, and what to do next."""
    from tokenkit.cli import stages
    from tokenkit.evaluation.folder import read_texts
    from tokenkit.evaluation.results import results_of

    bits = results_of(folder / "run", config.training.steps).bits()
    own = Path(config.data.validation[0]).is_relative_to(folder)
    names = ("teacher, its own tokenizer", "new tokenizer, no training", "after transfer")
    scores = dict(zip(names, bits.values(), strict=True))
    stages.print_scores(scores, "texts that the model wrote" if own else "validation texts")
    stages.print_gap(scores)
    prompt = read_texts(config.data.validation, 1, config.data.text_field)[0][:PIECE]
    print("\nthe new model, loaded by plain transformers, goes on:\n")
    print(stages.sample(folder / MODEL, prompt.rpartition(" ")[0] or prompt, 40))
    print(f"\nmodel        {folder / MODEL}")
    spare = folder / "run" / "checkpoints"
    print(f"on disk      {megabytes(folder)}; of these {megabytes(spare)} are the run's last")
    print(f"             checkpoint, needed no more: rm -r {spare}")
    if not missing("tensorboard"):
        print(f"TensorBoard  tensorboard --logdir {folder / 'run'}")
    print(f"push it      hf upload OWNER/NAME {folder / MODEL} --private")
    print(f"go on from   tokenkit train --job.config_file {folder / WRITTEN}")
    print(f"finished in  {minutes:.1f} minutes")


def main() -> None:
    args, more = parse_arguments()
    check(args)
    begin, folder = time.time(), args.output.resolve()
    wait_passively(os.environ)
    if args.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # of the stages, too

    from tokenkit.cli import stages
    from tokenkit.cli.transfer_settings import own_texts
    from tokenkit.config.short import short_toml
    from tokenkit.tokenizers import parse_spec
    from tokenkit.training.run_directory import check_output_dir

    if (Path(args.model) / "config.toml").is_file():
        stages.make("export the run to start from", "export", folder / "source",
                    "--run", args.model)  # fmt: skip
        args.model = str(folder / "source")
    config = plan(args, more, folder)
    text = f"{HEAD}\n\n{short_toml(config)}"
    print(f"\n{args.output / WRITTEN}:\n\n{text}")
    if args.dry_run:
        return
    check_output_dir(config)  # another transfer's folder is refused
    steps = config.training.steps
    if (folder / MODEL).exists() and not stages.checkpoint(folder / "run", steps).is_dir():
        if (folder / WRITTEN).read_text(encoding="utf-8") == text:
            print(f"finished before: {args.output / MODEL}; its checkpoint is gone, so it stays")
            return
        raise ConfigError(
            f"--output '{args.output}': {MODEL} in it is of other settings than these, or another "
            "number of steps; move it away, or choose another folder"
        )
    folder.mkdir(parents=True, exist_ok=True)
    with new_file(folder / WRITTEN) as file:
        file.write(text)
    write_texts(config, folder, own_texts(args, config.training))
    stages.train("transfer it by distilling it into itself", folder / "run",
                 "--job.config_file", str(folder / WRITTEN))  # fmt: skip
    named = [Path(parse_spec(spec).path).name for spec in (args.model, args.to)]
    name = f"{named[0]}-bytes" if named[0] == named[1] else "-".join(named)
    stages.make("export the result", "export", folder / MODEL,
                "--run", str(folder / "run"), "--name", name)  # fmt: skip
    report(config, folder, (time.time() - begin) / 60)
