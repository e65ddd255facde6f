"""The command ``tokenkit``: names of all commands, and the way to each."""

from __future__ import annotations

import importlib
import sys

from tokenkit.errors import ConfigError
from tokenkit.failure import run_rank
from tokenkit.log import bars_only_in_terminals
from tokenkit.registry import did_you_mean

# The file of a command has its name, with "_" for "-".
GROUPS = {
    "move and train": {
        "quickstart": "offline, in minutes: train a small model and change its tokenizer",
        "transfer": "move a model to another tokenizer, whole: distil, measure, export",
        "train": "train a student from a TOML file: distillation, transfer, a hypernetwork",
        "zett": "give a model another tokenizer without training",
        "export": "write a run's student as a folder that plain transformers loads",
    },
    "look and measure": {
        "generate": "let a model go on from texts, or chat with it",
        "compare": "models side by side on one page: bits per byte, what was kept, speed",
        "eval-bpb": "bits per byte of a model on text, comparable between tokenizers",
        "eval": "run lm-eval tasks on a model or a run",
        "eval-lockstep": "run lm-eval tasks on several models that read and write as one",
        "inspect-tokenizers": "two tokenizations of a text side by side, aligned (also: inspect)",
    },
    "prepare": {
        "plan": "memory, time and a layout that fits, before a run starts",
        "fetch": "bring here what a run needs of the hub, so that it can go offline",
        "sample-texts": "let a model write texts: data that keeps what it knows",
        "cache-teacher": "run a teacher once and keep what ALM needs of it",
        "compute-tokenizer-info": "pair statistics for the loss alm_unbiased",
        "compute-mined-mapping": "nearest tokens by edit distance for the loss mined",
    },
}
COMMANDS = {name: line for group in GROUPS.values() for name, line in group.items()}
SHORT = {"inspect": "inspect-tokenizers"}


def help_text() -> str:
    """Every command with one line on what it does, in groups."""
    width = max(map(len, COMMANDS))
    lines = ["usage: tokenkit COMMAND [OPTION]..."]
    for title, group in GROUPS.items():
        lines += ["", f"{title}:", *(f"  {name:<{width}}  {line}" for name, line in group.items())]
    return "\n".join([*lines, "", "tokenkit COMMAND --help says what its options are."])


def run_command() -> None:
    """Run the command that ``sys.argv`` names; without one, say which there are.

    Raises:
        ConfigError: if there is no such command.
    """
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        print(help_text())
        return
    name = SHORT.get(name, name)
    if name not in COMMANDS:
        raise ConfigError(
            f"unknown command '{name}'{did_you_mean(name, list(COMMANDS))} "
            f"(commands: {', '.join(COMMANDS)})"
        )
    bars_only_in_terminals()
    module = importlib.import_module(f"tokenkit.cli.{name.replace('-', '_')}")
    # Each command is a program of its own, which scripts/ starts as well.
    sys.argv = [f"tokenkit {name}", *arguments]
    module.main()


def main() -> None:
    """What the installed command ``tokenkit`` calls; errors of the user are one line."""
    run_rank(run_command)
