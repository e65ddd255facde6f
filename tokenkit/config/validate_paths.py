"""Local files and folders that the settings name; hub ids are left to those who download them."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator
from pathlib import Path

from tokenkit.config.load import to_toml
from tokenkit.config.local_paths import tokenizer_path
from tokenkit.config.schema import Config
from tokenkit.io import place_problem
from tokenkit.ranks import rank

HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?(@[\w./-]+)?")  # org/name, maybe @revision
WINDOWS_PATH = re.compile(r"[A-Za-z]:[\\/]|.*\\")


# What a run writes into its folder, and whether it is a folder itself
RUN_PARTS = {"checkpoints": True, "tensorboard": True, "metrics.jsonl": False, "config.toml": False}


def check_paths(config: Config) -> Iterator[str]:
    """Yield one line for each local thing that is missing or of the wrong kind."""
    yield from _check_output_dir(config.job.output_dir)
    pretrained = config.student.init == "pretrained"
    yield from _check_model("student.model", config.student.model, pretrained)
    yield from _check_model("teacher.model", config.teacher.model, pretrained=True)
    yield from _check_tokenizer("student.tokenizer", config.student.tokenizer)
    yield from _check_tokenizer("student.target_tokenizer", config.student.target_tokenizer)
    yield from _check_tokenizer("teacher.tokenizer", config.teacher.tokenizer)
    for spec in config.eval.tokenizers:
        yield from _check_tokenizer("eval.tokenizers", spec)
    path = config.eval.include_path
    if path and not _expand(path).is_dir():
        yield f"eval.include_path = {to_toml(path)} is not a folder; name one with task files"
    yield from _check_cache(config.teacher.cache)
    yield from _check_data("data.train", config.data.train)
    yield from _check_data("data.validation", config.data.validation)


def looks_local(value: str) -> bool:
    """Whether a model or tokenizer name means a local path rather than a hub id.

    A plain ``name``, ``org/name`` or ``org/name@revision`` is a hub id, unless it, or its first
    folder, exists here.
    """
    if value.startswith((".", "/", "~")) or value.endswith("/") or WINDOWS_PATH.match(value):
        return True
    parent = os.path.dirname(value)
    if os.path.exists(value) or (parent and os.path.isdir(parent)):
        return True
    return value.partition("@")[0].count("/") > 1


def conversions(spec: str) -> list[str]:
    """What a tokenizer spec says after ``:conversion=``."""
    return re.findall(r":conversion=(\w+)", spec)


def _expand(path: str) -> Path:
    return Path(os.path.expanduser(path))


def _check_output_dir(value: str) -> Iterator[str]:
    if not value:
        yield "job.output_dir is empty: name the folder of the run, such as outputs/my_run"
    folder = _expand(value)
    for path in (folder, *folder.parents):
        if path.exists() and not path.is_dir():
            what = "it" if path == folder else f"'{path}'"
            yield f"job.output_dir = {to_toml(value)}: {what} is a file; name a folder"
    for name, is_folder in RUN_PARTS.items():
        part = folder / name
        if part.exists() and part.is_dir() != is_folder:
            kind = "a file" if is_folder else "a folder"
            yield f"job.output_dir = {to_toml(value)}: '{name}' in it is {kind}; choose another"
    if rank() == 0 and (problem := place_problem(folder)):
        yield f"job.output_dir = {to_toml(value)}: {problem}"


def _check_model(key: str, value: str, pretrained: bool) -> Iterator[str]:
    where, folder = f"{key} = {to_toml(value)}:", _expand(value)
    if value and not looks_local(value):
        if not HUB_ID.fullmatch(value):
            yield f"{where} neither a folder that exists nor a hub id such as org/name"
    elif not value:
        return
    elif not folder.exists():
        yield f"{where} this model folder does not exist"
    elif not folder.is_dir():
        yield f"{where} expected a model folder, but this is a file"
    elif not (folder / "config.json").is_file():
        yield f"{where} this folder has no config.json, so it is no model of transformers"
    elif pretrained and not any(folder.glob("*.safetensors")):
        hint = ', or student.init = "random"' if key == "student.model" else ""
        yield f"{where} this folder has no *.safetensors; expected weights in that format{hint}"


def _check_tokenizer(key: str, spec: str) -> Iterator[str]:
    path = tokenizer_path(spec)
    if path and looks_local(path) and not _expand(path).exists():
        yield f"{key} = {to_toml(spec)}: the tokenizer folder {to_toml(path)} does not exist"


def _check_cache(value: str) -> Iterator[str]:
    if value and not _expand(value).is_dir():
        yield (
            f"teacher.cache = {to_toml(value)}: this folder does not exist; name one with "
            "precomputed teacher scores, or leave it empty and set teacher.model"
        )


def _check_data(key: str, sources: list[str]) -> Iterator[str]:
    for source in sources:
        where = f"{key}: {to_toml(source)}"
        if source.startswith("hf:"):
            if source == "hf:":
                yield f"{where} names no dataset; expected hf:org/name"
        elif not source:
            yield f"{key} = {to_toml(sources)}: an entry is empty; name a file or folder"
        elif not _expand(source).exists() and not glob.glob(os.path.expanduser(source)):
            hint = f"; a dataset of the hub is written hf:{source}" if _hub_like(source) else ""
            yield f"{where} does not exist: name local files or folders{hint}"


def _hub_like(source: str) -> bool:
    return not looks_local(source) and "/" in source and HUB_ID.fullmatch(source) is not None
