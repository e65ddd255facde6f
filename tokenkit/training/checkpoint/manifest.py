"""What a checkpoint consists of: ``manifest.json``, written last, makes it whole.

    {"hash": of the content, "content": {
        "format": 1, "step": …, "serial": …, "ranks": …, "data_ranks": …, "with_optimizer": …,
        "data": [identity of each source], "files": {name: {"bytes": …, "hash": …}},
        "tensors": {name: {"shape": […], "pieces": [[file, first element, extent]]}}}}

Everything is JSON or safetensors: whoever can write a checkpoint cannot run code by it.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash

from tokenkit.errors import CheckpointError
from tokenkit.training.checkpoint.files import hash_of, write_json

FORMAT = 1
FILE = "manifest.json"
OLD = ".metadata"  # of checkpoints that earlier versions pickled


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose manifest could be read; its files may still be damaged.

    Attributes:
        serial: checkpoints of a run are numbered as they are written. The newest is the one to go
            on from, also where ``checkpoint.load_step`` once went back to an earlier step.
    """

    folder: Path
    content: dict[str, Any]

    @property
    def step(self) -> int:
        return self.content["step"]

    @property
    def serial(self) -> int:
        return self.content["serial"]


def step_folder(root: Path, step: int) -> Path:
    return root / f"step-{step:08d}"


def step_folders(root: Path) -> dict[int, Path]:
    """Folders with the name of a checkpoint, by step, ascending."""
    paths = list(root.glob("step-*")) if root.is_dir() else []
    found = {int(m[1]): path for path in paths if (m := re.fullmatch(r"step-(\d+)", path.name))}
    return dict(sorted(found.items()))


def list_steps(root: Path) -> list[int]:
    """Steps with a whole checkpoint (or a pickled one), ascending."""
    return [
        step
        for step, folder in step_folders(root).items()
        if (folder / FILE).is_file() or (folder / OLD).is_file()
    ]


def write_manifest(folder: Path, content: dict[str, Any]) -> None:
    """Write the manifest; then the checkpoint is whole."""
    for name, tensor in content["tensors"].items():
        # Pieces do not overlap, so numbers of elements tell whether they cover a tensor.
        held = sum(math.prod(size) for _, _, size in tensor["pieces"])
        assert held == math.prod(tensor["shape"]), f"ranks hold {held} elements of {name}"
    write_json(folder / FILE, {"hash": _content_hash(content), "content": content})


def _content_hash(content: dict[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return xxhash.xxh3_128(text.encode()).hexdigest()


def read_checkpoint(folder: Path) -> Checkpoint:
    """Read a manifest.

    Raises:
        CheckpointError: if it is missing, damaged, or says another step than the folder's name.
    """
    where = f"checkpoint '{folder}'"
    if not (folder / FILE).is_file() and (folder / OLD).is_file():
        raise CheckpointError(
            f"{where} was pickled by an earlier version and is not read, since reading would run "
            "code in it; export it with that version (0.1), then train the exported folder"
        )
    try:
        found = json.loads((folder / FILE).read_text(encoding="utf-8"))
        content = found["content"]
        whole = found["hash"] == _content_hash(content)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{where} is damaged: {FILE} cannot be read ({error})") from error
    if not whole:
        raise CheckpointError(f"{where} is damaged: {FILE} was changed after it was written")
    version = content.get("format") if isinstance(content, dict) else None
    if version != FORMAT:
        raise CheckpointError(f"{where} has format {version}, this version reads {FORMAT}")
    problem = _ill_formed(content)
    if problem:
        raise CheckpointError(f"{where} is damaged: {FILE}: {problem}")
    if folder.name != step_folder(folder.parent, content["step"]).name:
        raise CheckpointError(f"{where} was renamed: it is of step {content['step']}")
    return Checkpoint(folder, content)


def _ill_formed(content: dict[str, Any]) -> str | None:
    """What is wrong with a manifest that somebody else may have written; None if nothing."""
    wanted = {"step": int, "serial": int, "data_ranks": int, "with_optimizer": bool,
              "data": list, "files": dict, "tensors": dict}  # fmt: skip
    for key, kind in wanted.items():
        if not isinstance(content.get(key), kind):
            return f"{key} is not of type {kind.__name__}"
    names = content["files"]
    if any(Path(name).name != name for name in names):
        return "a file lies outside of the folder"
    try:
        for name, tensor in content["tensors"].items():
            pieces = [(file, begin, size) for file, begin, size in tensor["pieces"]]
            if sum(math.prod(size) for _, _, size in pieces) != math.prod(tensor["shape"]):
                return f"its pieces of {name} are not all of it"
            if any(file not in names for file, _, _ in pieces):
                return f"a piece of {name} is in a file that is not listed"
        for entry in names.values():
            _ = entry["bytes"] + 0, entry["hash"] + ""
    except (TypeError, ValueError, KeyError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def find_checkpoints(root: Path) -> tuple[list[Checkpoint], list[str]]:
    """All checkpoints whose manifest is whole, newest first, and what is wrong with others."""
    found, problems = [], []
    for step in list_steps(root):
        try:
            found.append(read_checkpoint(step_folders(root)[step]))
        except CheckpointError as error:
            problems.append(str(error))
    return sorted(found, key=lambda checkpoint: -checkpoint.serial), problems


def damage(checkpoint: Checkpoint, names: list[str]) -> str | None:
    """What is wrong with some of a checkpoint's files; None if nothing."""
    for name in names:
        entry, path = checkpoint.content["files"][name], checkpoint.folder / name
        try:
            size = path.stat().st_size
            if size != entry["bytes"]:
                return f"{name} has {size:,} bytes, {entry['bytes']:,} were written"
            if hash_of(path) != entry["hash"]:
                return f"{name} was changed after it was written"
        except FileNotFoundError:
            return f"{name} is missing"
        except OSError as error:
            return f"{name} cannot be read ({error})"
    return None
