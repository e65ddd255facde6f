"""Stages of commands that do a whole job: each runs another command, unless its result is there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tokenkit.errors import TokenkitError
from tokenkit.launcher import wait_passively
from tokenkit.log import bars_only_in_terminals, warnings_shared
from tokenkit.shipped import PACKAGE


def run(title: str, command: str, *arguments: str) -> None:
    """Run one of the other commands as a user would, its output passing through."""
    print(f"\n== {title}\n$ python -m tokenkit {command} {' '.join(arguments)}", flush=True)
    environment = {"TOKENIZERS_PARALLELISM": "true", **os.environ}
    paths = (str(PACKAGE.parent), environment.get("PYTHONPATH", ""))
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    wait_passively(environment)
    whole = [sys.executable, "-m", "tokenkit", command, *arguments]
    with warnings_shared() as shared:
        failed = subprocess.run(whole, env={**environment, **shared}).returncode
    if failed:
        raise TokenkitError(f"stopped: tokenkit {command} failed (see above)")


def train(title: str, output: Path, *arguments: str) -> None:
    """Train; a finished run has nothing left to do, an interrupted one resumes."""
    from tokenkit.config import load_config

    run(title, "train", *arguments)
    # A run that was asked to stop (SIGTERM) saves and leaves without an error.
    wanted = load_config(["--job.config_file", str(output / "config.toml")]).training.steps
    if not checkpoint(output, wanted).is_dir():
        raise TokenkitError(f"{output} stopped before step {wanted}; run this again to resume it")


def checkpoint(run_folder: Path, step: int) -> Path:
    """The folder of a run's checkpoint."""
    return run_folder / "checkpoints" / f"step-{step:08d}"


def make(title: str, command: str, output: Path, *arguments: str) -> None:
    """Run a command that writes a file or folder, unless it is there."""
    if not output.exists():
        run(title, command, *arguments, "--output", str(output))


def sample(model: Path, prompt: str, new_tokens: int) -> str:
    """What plain transformers makes of an exported folder."""
    bars_only_in_terminals()

    from transformers import AutoModelForCausalLM, AutoTokenizer

    # A byte-level folder brings code of its own.
    tokenizer = AutoTokenizer.from_pretrained(model, trust_remote_code=True)
    loaded = AutoModelForCausalLM.from_pretrained(model, trust_remote_code=True)
    inputs = tokenizer(prompt, return_tensors="pt")
    output = loaded.generate(**inputs, max_new_tokens=new_tokens, do_sample=False)
    return tokenizer.decode(output[0], skip_special_tokens=True)


def print_scores(scores: dict[str, float], title: str = "held-out text") -> None:
    print("\n" + "=" * 62)
    print(f"{f'bits per byte on {title} (lower is better)':<50}")
    for name, value in scores.items():
        print(f"  {name:<44} {value:>8.4f}")


def print_gap(scores: dict[str, float]) -> None:
    """How far a student has come, by scores of the teacher, the start and the end."""
    teacher, start, end = scores.values()
    if start > teacher:
        print(f"gap closed: {100 * (start - end) / (start - teacher):.0f}%")
    else:
        print("gap closed: none to close (the new tokenizer costs nothing here)")
    print("=" * 62)
