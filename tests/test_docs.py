"""What the documentation says exists: links, commands and their options, keys, Python.

Commands are parsed here; ``test_docs_commands.py`` says how each is tried.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest
import tomli

from tests.documented.parsed import check
from tests.documented.shown import BLOCK, PAGES, ROOT, commands, name
from tokenkit.cli.main import COMMANDS
from tokenkit.config import (
    components,  # noqa: I001
    config_from_dict,
)
from tokenkit.config.components import add_section
from tokenkit.config.keys import all_keys

LINK = re.compile(r"\]\(([^)\s]+)\)")
INLINE = re.compile(r"`tokenkit ([a-z-]+)[^`]*`")

# Blocks of Python that are no program of their own: what they name is explained beside them.
PIECES = {
    ("README.md", "import tokenkit as tk"),  # a user's own tensors
    ("docs/bytes.md", "tokenizer = AutoTokenizer"),  # an exported folder of a byte-level model
    ("docs/publishing.md", "model = AutoModelForCausalLM"),  # an exported adapter
    ("docs/extending.md", "import torch"),  # settings that the reader writes
    ("docs/extending.md", "make_family("),
    ("docs/extending.md", "from torch import Tensor"),  # run by tests/losses/test_documented.py
    ("docs/papers.md", "import json"),  # reads a dataset of the hub
    ("tokenkit/tokenizers/README.md", "from tokenkit.tokenizers import"),  # needs the hub
}


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


@pytest.mark.parametrize("command", commands(), ids=lambda command: command.place)
def test_commands_are_understood(command):
    check(command)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_in_sentences(page):
    for command in INLINE.findall(prose(page)):
        assert command in COMMANDS, f"{name(page)}: {command}"


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


def test_jax_names_keys_of_ours():
    """The middle column of its tables; the other library's keys stand to the left."""
    rows = re.findall(r"^\|.*\|$", (ROOT / "docs" / "jax.md").read_text("utf-8"), re.M)
    cells = [row.split("|")[2] for row in rows]
    keys = [key for cell in cells for key in re.findall(r"`([a-z_]+\.\w+)(?: = [^`]*)?`", cell)]
    assert len(keys) > 70
    assert not set(keys) - set(all_keys())


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
