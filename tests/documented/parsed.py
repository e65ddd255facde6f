"""Whether a command as printed is one: programs, options, keys and files exist; nothing is run."""

from __future__ import annotations

import importlib
import re
from functools import cache
from pathlib import Path

import pytest

from tests.documented.shown import ROOT, Command
from tokenkit.cli.arguments import CommandParser
from tokenkit.cli.main import COMMANDS
from tokenkit.config import load_config
from tokenkit.config.keys import all_keys
from tokenkit.config.recipes import settings_file

# Programs of others, whose options are theirs.
OTHERS = {"pip", "tensorboard", "accelerate", "lm_eval", "sbatch"}
# Names that stand for the reader's own files.
READERS_OWN = {"x.toml", "run.toml", "config.toml", "NAME", "my_parts.py"}
LEFT_OUT = {"…", "..."}  # a command that is not written out


class Parsed(Exception):
    """Arguments were understood."""


def check(command: Command) -> None:
    """Let the parser of each program involved read its arguments.

    Raises:
        AssertionError: if it would not take them, or a file is missing; names file and line.
    """
    try:
        with pytest.MonkeyPatch.context() as patch:
            _check_words(command.words, patch)
    except (Exception, SystemExit) as error:
        raise AssertionError(f"{command.place}: {command.text}\n{error}") from error


def _check_words(words: list[str], patch: pytest.MonkeyPatch) -> None:
    while re.match(r"[A-Z_]+=", words[0]):
        _check_variable(words.pop(0))
    first, *rest = words
    if first == "make":
        _check_make(rest, patch)
    elif first == "tokenkit":
        _check_tokenkit(rest, patch)
    elif first == "torchrun" or words[:3] == ["python", "-m", "tokenkit.launcher"]:
        _check_torchrun(rest if first == "torchrun" else words[3:], patch)
    elif words[:3] == ["python", "-m", "tokenkit"]:
        _check_tokenkit(words[3:], patch)
    elif first == "python":
        _check_script(rest, patch)
    elif first.endswith(".sh"):
        _check_script(words, patch)
    else:
        assert first in OTHERS, f"what is '{first}'?"
        scripts = [word for word in rest if word.endswith((".slurm", ".sh", ".py"))]
        if scripts:
            _check_script(rest[rest.index(scripts[0]) :], patch)


def _check_variable(word: str) -> None:
    """``CONFIG_FILE=…`` before run_train.sh."""
    variable, _, value = word.partition("=")
    text = (ROOT / "run_train.sh").read_text()
    assert f"${{{variable}:-" in text, f"run_train.sh does not read {variable}"
    if variable == "CONFIG_FILE":
        _check_settings_file(value)


def _check_make(words: list[str], patch: pytest.MonkeyPatch) -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    values = dict(word.split("=", 1) for word in words if "=" in word)
    for variable in values:
        assert re.search(rf"^{variable} \?=", makefile, re.M), f"no variable {variable}"
    for target in (word for word in words if "=" not in word):
        assert re.search(rf"^{re.escape(target)}:", makefile, re.M), f"no target {target}"
    if "quickstart" in words and "ARGS" in values:
        _check_tokenkit(["quickstart", *values["ARGS"].split()], patch)


def _check_torchrun(words: list[str], patch: pytest.MonkeyPatch) -> None:
    """The launcher's own options, then the program that it starts."""
    end = words.index("-m") if "-m" in words else len(words)
    words = [word for word in words[:end] if word not in LEFT_OUT] + words[end:]
    if words == ["--max-restarts"]:  # named alone, in the list of changes
        return
    from torch.distributed.run import get_args_parser

    args = get_args_parser().parse_args(words)
    if not args.module:
        _check_script([args.training_script, *args.training_script_args], patch)
        return
    assert args.training_script == "tokenkit", f"no module {args.training_script}"
    _check_tokenkit(args.training_script_args, patch)


def _check_script(words: list[str], patch: pytest.MonkeyPatch) -> None:
    script, *arguments = words
    if script == "scripts/NAME.py":
        return
    assert (ROOT / script).is_file(), f"no {script}"
    name = Path(script).stem.replace("_", "-")
    if script.startswith("scripts/") and name in COMMANDS:
        _check_tokenkit([name, *arguments], patch)
    else:  # train.py, run_train.sh and train.slurm take settings
        _check_settings(arguments)


def _check_tokenkit(words: list[str], patch: pytest.MonkeyPatch) -> None:
    """Let the command's own parser read the arguments, and stop there."""
    command, *arguments = words
    if command in ("NAME", "COMMAND"):
        return
    assert command in COMMANDS, f"no command '{command}'"
    module = importlib.import_module(f"tokenkit.cli.{command.replace('-', '_')}")
    if LEFT_OUT & set(arguments) or arguments in ([], ["--help"]):
        return
    if command in ("train", "fetch"):  # all they take are settings
        _check_settings(arguments)
        return
    if len(arguments) == 1 and arguments[0] in _options(command):
        return  # an option that a sentence names
    parse = CommandParser.parse_known_args

    def parsed(self, *args, **kwargs):
        known, rest = parse(self, *args, **kwargs)
        unknown = [word for word in rest if word.startswith("-") and "." not in word]
        assert not unknown, f"{command} has no {unknown}"
        _check_settings(rest)
        raise Parsed

    patch.setattr(CommandParser, "parse_known_args", parsed)
    patch.setattr("sys.argv", [f"tokenkit {command}", *arguments])
    with pytest.raises(Parsed):
        module.main()


@cache
def _options(command: str) -> set[str]:
    """Options that a command's file defines."""
    text = (ROOT / "tokenkit" / "cli" / f"{command.replace('-', '_')}.py").read_text("utf-8")
    return set(re.findall(r'"(--[\w-]+)"', text))


def _check_settings(words: list[str]) -> None:
    """Every ``--section.key`` exists, and so do recipes; parts of one's own bring keys."""
    values = _pairs(words)
    own = values.get("job.custom_import", "")
    known = set(all_keys())
    if own and own not in READERS_OWN:
        assert (ROOT / own).is_file(), f"no {own}"
        known |= set(_keys_with(own))
    for key, value in values.items():
        mine = own in READERS_OWN and key.startswith("mine.")
        assert key in known or key in ("dry-run", "help") or mine, f"no key {key}"
        if key == "job.config_file":
            _check_settings_file(value)


def _pairs(words: list[str]) -> dict[str, str]:
    """Values by key; ``--key`` without a value has none."""
    found: dict[str, str] = {}
    key = ""
    for word in words:
        if word.startswith("--"):
            key, _, value = word[2:].partition("=")
            found[key] = value
        else:
            assert key, f"'{word}' belongs to no key"
            found[key] = word
    return found


def _check_settings_file(value: str) -> None:
    if Path(value).name not in READERS_OWN and value not in LEFT_OUT:
        path = settings_file(str(ROOT / value) if "/" in value else value)
        assert path.is_file(), f"no {value}"


@cache
def _keys_with(custom_import: str) -> tuple[str, ...]:
    """Keys that ``--help`` lists with a file of the user's own."""
    import contextlib
    import io

    with contextlib.redirect_stdout(io.StringIO()) as said, pytest.raises(SystemExit):
        load_config(["--help", "--job.custom_import", str(ROOT / custom_import)])
    return tuple(re.findall(r"^ *--([a-z_]+(?:\.\w+)+)", said.getvalue(), re.M))
