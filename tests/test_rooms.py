"""The order of the rooms: what is low knows nothing of what is high, and no file needs itself."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
# From the ground floor up. Modules of the package itself are rooms of one file.
ROOMS = (
    *(
        "errors",
        "extras",
        "life",
        "failure",
        "launcher",
        "log",
        "registry",
        "io",
        "ranks",
        "cards",
        "processes",
        "shipped",
        "byte_model",
        "config",
        "tokenizers",
        "batch",
        "data",
    ),
    *("ops", "models", "transfer", "losses", "balance", "parallelisms"),
    *("training", "planning", "inference", "evaluation", "export", "api", "cli"),
)


def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name."""
    found = {}
    for path in sorted((ROOT / "tokenkit").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def imported(tree: ast.AST, late: bool) -> Iterator[str]:
    """Modules of the package that a file imports; ``late``: in functions and for types, too."""
    todo = [tree]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in MODULES else node.module for name in names]
        else:
            names = []
            if late or not (is_type_checking(node) or isinstance(node, ast.FunctionDef)):
                todo += ast.iter_child_nodes(node)
        yield from (name for name in names if name in MODULES)


def imports(late: bool) -> dict[str, set[str]]:
    found = {}
    for name, path in MODULES.items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        found[name] = set(imported(tree, late)) - {name}
    return found


def test_every_room_has_its_place():
    rooms = {name.split(".")[1] for name in MODULES if "." in name} - {"__main__"}
    assert rooms <= set(ROOMS)


def test_lower_rooms_never_import_higher_ones():
    place = {room: number for number, room in enumerate(ROOMS)}
    wrong = [
        f"{name} imports {other}"
        for name, others in imports(late=True).items()
        for other in others
        if name.count(".") and other.count(".") and "__main__" not in name
        and place[name.split(".")[1]] < place[other.split(".")[1]]
    ]  # fmt: skip
    assert not wrong, "\n".join(wrong)


def test_no_file_needs_itself():
    graph = imports(late=False)
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join((*path[path.index(name) :], name))
        if name not in done:
            for other in sorted(graph[name]):
                visit(other, (*path, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def test_files_are_short():
    lengths = {name: len(path.read_text().splitlines()) for name, path in MODULES.items()}
    assert not {name: length for name, length in lengths.items() if length > 320}
