"""What the documentation says exists: links, commands and their options, keys, Python.

Commands of the pages name models of the hub, files of the reader's, or many GPUs, so here they are
parsed and not run. Those that need neither are run elsewhere: ``make quickstart`` in
``tests/cli/test_quickstart.py``, ``train_configs/debug.toml`` in ``tests/scripts``.
"""

from __future__ import annotations

import importlib
import re
import shlex
from functools import cache
from pathlib import Path

import pytest
import tomli

import tokenkit
from tokenkit.cli.arguments import CommandParser
from tokenkit.cli.main import COMMANDS
from tokenkit.config import (
    components,  # noqa: I001
    config_from_dict,
)
from tokenkit.config.components import add_section
from tokenkit.config.keys import all_keys
from tokenkit.config.recipes import settings_file

ROOT = Path(tokenkit.__file__).parents[1]
ROOMS = ("tokenizers", "data")
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    *(ROOT / "tokenkit" / room / "README.md" for room in ROOMS),
]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.M | re.S)
LINK = re.compile(r"\]\(([^)\s]+)\)")
INLINE = re.compile(r"`(tokenkit [^`]+)`")

# Blocks of Python that are no program of their own: what they name is explained beside them.
PIECES = {
    ("README.md", "import tokenkit as tk"),  # a user's own tensors
    ("docs/bytes.md", "tokenizer = AutoTokenizer"),  # an exported folder of a byte-level model
    ("docs/publishing.md", "model = AutoModelForCausalLM"),  # an exported adapter
    ("docs/extending.md", "import torch"),  # settings that the reader writes
    ("docs/extending.md", "make_family("),
    ("tokenkit/tokenizers/README.md", "from tokenkit.tokenizers import"),  # needs the hub
}
# Words that begin a line of shell and are no command of ours.
OTHERS = {"make", "pip", "tensorboard", "accelerate", "lm_eval", "srun", "sbatch", "kill", "cd"}


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(*languages: str) -> list:
    found = []
    for page in PAGES:
        for number, (language, text) in enumerate(BLOCK.findall(page.read_text("utf-8")), 1):
            if language in languages:
                found.append(pytest.param(page, text, id=f"{name(page)}-{number}"))
    return found


def prose(page: Path) -> str:
    return BLOCK.sub("", page.read_text("utf-8"))


@cache
def anchors(page: Path) -> set[str]:
    """Anchors of headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.M)
    plain = [re.sub(r"\]\([^)]*\)|[`*\[]", "", heading).lower() for heading in headings]
    return {re.sub(r"[^\w\- ]", "", heading).strip().replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page):
    for target in LINK.findall(prose(page)):
        if re.match(r"https?:|mailto:", target):
            continue
        path, _, anchor = target.partition("#")
        place = (page.parent / path).resolve() if path else page
        assert place.exists(), f"{name(page)}: no {target}"
        if anchor and place.suffix == ".md":
            assert anchor in anchors(place), f"{name(page)}: no heading {target}"


def test_every_page_is_reached_from_the_readme():
    readme = (ROOT / "README.md").read_text("utf-8")
    assert not [name(page) for page in PAGES[1:] if f"]({name(page)})" not in readme]


class Parsed(Exception):
    """Arguments were understood."""


def words(line: str) -> list[str]:
    found = shlex.split(line, comments=True)
    while found and re.match(r"[A-Z_]+=", found[0]):
        found.pop(0)
    return found


def check_command(found: list[str], monkeypatch) -> None:
    """Let the command's own parser read the arguments, and stop there."""
    command, *arguments = found
    assert command in COMMANDS, f"no command '{command}'"
    if "…" in arguments or "..." in arguments or arguments in ([], ["--help"]):
        return
    module = importlib.import_module(f"tokenkit.cli.{command.replace('-', '_')}")
    if command in ("train", "fetch"):  # all they take are settings
        check_keys(arguments)
        return
    parse = CommandParser.parse_known_args

    def parsed(self, *args, **kwargs):
        known, rest = parse(self, *args, **kwargs)
        unknown = [word for word in rest if word.startswith("-") and "." not in word]
        assert not unknown, f"{command} has no {unknown}"
        check_keys(rest)
        raise Parsed

    monkeypatch.setattr(CommandParser, "parse_known_args", parsed)
    monkeypatch.setattr("sys.argv", [f"tokenkit {command}", *arguments])
    with pytest.raises(Parsed):
        module.main()


def check_keys(arguments: list[str]) -> None:
    """Every ``--section.key`` exists, and recipes too."""
    for place, argument in enumerate(arguments):
        key, _, value = argument.removeprefix("--").partition("=")
        if not argument.startswith("--") or "." not in key:
            continue
        assert key in all_keys() or key.startswith("mine."), f"no key {key}"
        value = value or (arguments[place + 1] if place + 1 < len(arguments) else "")
        if key == "job.config_file" and value not in ("x.toml", "run.toml", "NAME"):
            settings_file(str(ROOT / value) if "/" in value else value)


@pytest.mark.parametrize(("page", "text"), blocks("bash", "sh"))
def test_shell_blocks(page, text, monkeypatch):
    for line in text.replace("\\\n", " ").splitlines():
        found = words(line)
        if not found:
            continue
        with monkeypatch.context() as patch:
            check_line(found, patch)


def check_line(found: list[str], monkeypatch) -> None:
    first, *rest = found
    if first == "make":
        target = rest[0] if "=" not in rest[0] else rest[1]
        makefile = (ROOT / "Makefile").read_text("utf-8")
        assert re.search(rf"^{re.escape(target)}:", makefile, re.M), f"no target {target}"
    elif first == "tokenkit":
        check_command(rest, monkeypatch)
    elif first in ("python", "torchrun") or first.endswith((".sh", ".py")):
        script = next((w for w in found if w.endswith((".py", ".sh")) and "-" not in w[:1]), "")
        if script and first != "tokenkit":
            assert (ROOT / script).is_file() or script.startswith("my_"), f"no {script}"
        if script.startswith("scripts/") and script.endswith(".py"):
            at = found.index(script)
            command = Path(script).stem.replace("_", "-")
            if command in COMMANDS:
                check_command([command, *found[at + 1 :]], monkeypatch)
        elif script in ("train.py", "run_train.sh", "./run_train.sh"):
            check_keys(found[found.index(script) + 1 :])
    else:
        assert first in OTHERS, f"what is '{first}'? ({' '.join(found)})"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_in_sentences(page, monkeypatch):
    for command in INLINE.findall(prose(page)):
        found = shlex.split(command)[1:]
        if found[0] in ("NAME", "COMMAND", "--help"):
            continue
        assert found[0] in COMMANDS, f"{name(page)}: {command}"
        if len(found) > 2:
            with monkeypatch.context() as patch:
                check_command(found, patch)


@pytest.mark.parametrize(("page", "text"), blocks("toml"))
def test_toml_blocks_are_settings(page, text):
    tables = tomli.loads(text)
    if "models" in tables or "evaluation" in name(page) and "model" in tables:
        return  # of eval-lockstep, whose own parser is tested with it
    config_from_dict(tables)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_keys_in_sentences(page):
    """`section.key = …` in prose names a key."""
    sections = {key.rsplit(".", 1)[0] for key in all_keys()}
    for key in re.findall(r"`([a-z_]+\.[a-z_]+)(?: = [^`]*)?`", prose(page)):
        if key.split(".")[0] in sections and not key.endswith(
            (".py", ".md", ".json", ".jsonl", ".toml")
        ):
            known = key in all_keys() or page.name in ("jax.md", "CHANGELOG.md", "extending.md")
            assert known, f"{name(page)}: no key {key}"


@pytest.fixture(scope="module")
def names(tiny_llama):
    """What API examples call ``A``, ``B``, ``teacher`` and ``student``."""
    import torch
    from transformers import AutoModelForCausalLM

    from tests.launch import SPEC_A, SPEC_B

    torch.manual_seed(0)
    teacher = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32)
    config = teacher.config
    student = AutoModelForCausalLM.from_config(config)
    student.resize_token_embeddings(2200)
    return {"A": SPEC_A, "B": SPEC_B, "teacher": teacher, "student": student}


@pytest.mark.parametrize(("page", "text"), blocks("python"))
def test_python_blocks(page, text, names, tmp_path, monkeypatch):
    if any(name(page) == where and text.startswith(first) for where, first in PIECES):
        compile(text, name(page), "exec")
        return
    monkeypatch.chdir(tmp_path)
    # What a block registers is not there for other tests.
    monkeypatch.setattr(components, "_sections", dict(components.registered_sections()))
    made = dict(names, add_section=add_section)
    exec(compile(text, name(page), "exec"), made)
    if "loss" in made:
        assert made["loss"].item() > 0
