"""Broken files by name, each made when a case first names it; see ``files_*.py``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

LONG = "x" * 26_000
MAKERS: dict[str, Callable[[Files, Path], object]] = {}


def maker(function: Callable[[Files, Path], object]) -> Callable[[Files, Path], object]:
    MAKERS[function.__name__] = function
    return function


def contents(folder: Path) -> dict[str, bytes | None]:
    """Everything in a folder: content by path, None for what is no file."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


class Files(dict):
    """Path by the name of what is wrong there; ``"{name}"`` in a case's arguments."""

    def __init__(self, root: Path, model: Path) -> None:
        super().__init__(root=str(root), model=str(model), long=LONG, none="")
        self.root, self.good_model = root, model

    def __missing__(self, name: str) -> str:
        path = self.root / name
        made = MAKERS[name](self, path)
        self[name] = str(made if isinstance(made, Path) else path)
        return self[name]

    def fill(self, argument: str) -> str:
        return argument.format_map(self) if "{" in argument and "\n" not in argument else argument
