"""Commands that the documentation shows, with file and line: of pages, of headers, of examples."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import tokenkit

ROOT = Path(tokenkit.__file__).parents[1]
ROOMS = ("tokenizers", "data")
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    *(ROOT / "tokenkit" / room / "README.md" for room in ROOMS),
]
# Files whose first comment or docstring shows how they are used.
HEADERS = [
    ROOT / "run_train.sh",
    ROOT / "scripts" / "train.slurm",
    *sorted((ROOT / "train_configs").glob("*.toml")),
    *sorted((ROOT / "examples").glob("*.py")),
    *sorted((ROOT / "tokenkit" / "cli").glob("*.py")),
]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.M | re.S)
PROGRAM = r"(?:tokenkit|python|torchrun|make|pip|sbatch|tensorboard|\./run_train\.sh)"
# A code span that gives a program more than the name of a command.
INLINE = re.compile(rf"`({PROGRAM} [^`]+)`")
# An indented line of a header, as in "#     NGPU=8 … ./run_train.sh" or "# Then: python …".
SHOWN = re.compile(rf"(?:Then: | {{4,}})((?:[A-Z_]+=\S+ )*{PROGRAM}(?: .*)?)$")
NAME_ALONE = re.compile(r"tokenkit [\w-]+|python -m tokenkit")


@dataclass(frozen=True)
class Command:
    """A command as printed.

    Attributes:
        page: the file that shows it.
        line: where it begins there.
        text: the command on one line, without comment and optional parts (``[--x]``).
    """

    page: Path
    line: int
    text: str

    @property
    def place(self) -> str:
        return f"{name(self.page)}:{self.line}"

    @property
    def words(self) -> list[str]:
        return shlex.split(self.text)


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def one_command(text: str) -> str:
    """On one line, as it would be typed.

    What follows ``[`` is optional, and a remark is in parentheses behind three spaces.
    """
    text = re.split(r" \[--| {3,}\(", text)[0]
    quoted = re.split(r"""("[^"]*"|'[^']*')""", text)  # a "#" within quotes is no comment
    kept = []
    for part in quoted:
        before, comment, _ = part.partition(" #") if part[:1] not in ("'", '"') else (part, "", "")
        kept.append(before)
        if comment:
            break
    return " ".join("".join(kept).split())


def joined(text: str, first: int) -> Iterator[tuple[int, str]]:
    """Lines with their numbers; those that end with a backslash go on in the next one."""
    begun, number = "", first
    for place, line in enumerate(text.splitlines(), first):
        number = number if begun else place
        begun = begun + (line.strip() if begun else line)
        if begun.endswith("\\"):
            begun = begun.rstrip("\\")
            continue
        yield number, begun
        begun = ""


def line_of(text: str, position: int) -> int:
    return text.count("\n", 0, position) + 1


def inline(page: Path, text: str) -> Iterator[Command]:
    """Commands within sentences; ``tokenkit plan`` there is a name and no command to type."""
    for found in INLINE.finditer(text):
        command = one_command(found[1])
        if not NAME_ALONE.fullmatch(command):
            yield Command(page, line_of(text, found.start()), command)


def of_page(page: Path) -> Iterator[Command]:
    text = page.read_text("utf-8")
    for block in BLOCK.finditer(text):
        if block[1] not in ("bash", "sh"):
            continue
        for line, shown in joined(block[2], line_of(text, block.start(2))):
            if command := one_command(" " + shown):
                yield Command(page, line, command)
    yield from inline(page, BLOCK.sub(lambda block: "\n" * block[0].count("\n"), text))


def header(path: Path) -> str:
    """What a file says of itself, with the line breaks of the file; comments without ``#``."""
    text = path.read_text("utf-8")
    if path.suffix == ".py":
        docstring = ast.parse(text).body[0] if text else None
        assert isinstance(docstring, ast.Expr), f"{name(path)} has no docstring"
        return "\n".join(text.splitlines()[: docstring.end_lineno]).replace("\\\\", "\\")
    lines = text.splitlines()
    end = next((n for n, line in enumerate(lines) if not line.startswith(("#", "'"))), len(lines))
    return "\n".join(line.removeprefix("#").removeprefix(" ") for line in lines[:end])


def of_header(path: Path) -> Iterator[Command]:
    text = header(path)
    for line, shown in joined(text, 1):
        if found := SHOWN.match(shown):
            yield Command(path, line, one_command(found[1]))
    yield from inline(path, text.replace("``", "`"))


@cache
def commands() -> list[Command]:
    """All of them, in the order of the files."""
    found = [command for page in PAGES for command in of_page(page)]
    return found + [command for path in HEADERS for command in of_header(path)]
