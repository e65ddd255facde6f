"""What a teacher cache was made of, and whether a run may use it.

A cache serves a run that would ask the same teacher about the same rows: the same weights in the
same dtype, tokenizer, texts in the same order, chat settings and length, and no more rows than were
read (of a cache of all rows: any number of passes). ``meta.json`` says all of this, and which files
there are; it comes from outside, so its types are checked first.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tokenkit.config import Config, config_tables
from tokenkit.errors import ConfigError, ModelError
from tokenkit.models.weights import SafetensorsSource, local_model_folder, resolve_model_folder
from tokenkit.tokenizers import ByteifiedTokenizer
from tokenkit.training.data_identity import source_identity
from tokenkit.training.fingerprint import fingerprint

FORMAT = 3
META = "meta.json"
NEW = "write a new cache with tokenkit cache-teacher"
SCHEMA: dict[str, Any] = {
    "format": int,
    "teacher": {
        "model": str,
        "self_distillation": bool,  # the teacher is the student as it was at the start
        "revision": str,  # commit of the hub; "" for local folders
        "weights": str,  # fingerprint
        "dtype": str,
    },
    "tokenizer": {"spec": str, "fingerprint": str},
    "form": str,  # Unicode form in which both tokenizers see the texts
    "data": [{"name": str, "files": int, "bytes": int, "fingerprint": str}],
    "settings": dict,  # keys of the config by full name
    "steps": int,
    "batch_size": int,
    "rows": [int],  # of each source, from its first place on
    "whole": bool,  # whether these are all
    "shard_rows": int,  # in each shard but a source's last
    "scores": str,  # dtype
    "tokens": int,
    "files": dict,  # bytes, hash and tokens by name
}
# Settings that decide which rows are read, besides the whole of [chat]
ORDER = ("data.weights", "data.split", "data.streaming", "data.shuffle", "data.text_field",
         "data.messages_field", "job.seed", "training.max_teacher_length")  # fmt: skip


def text_steps(config: Config) -> int:
    """Optimizer steps of a run that read texts: all but a hypernetwork's identity phase."""
    return config.training.steps - config.hypernet.identity_steps


def describe_run(config: Config, teacher_tok: ByteifiedTokenizer, form: str) -> dict[str, Any]:
    """What a cache for this run is made of: its ``meta.json`` without rows and files.

    Args:
        form: Unicode form of the texts.

    Raises:
        TokenkitError: if the teacher's weights or the data are missing.
    """
    own = not config.teacher.model
    return {
        "format": FORMAT,
        "teacher": {
            "self_distillation": own,
            **_teacher(config, resolve_model_folder(_teacher_name(config)), own),
        },
        "tokenizer": _tokenizer(teacher_tok),
        "form": form,
        "data": [source_identity(name) for name in config.data.train],
        "settings": _settings(config),
        "steps": text_steps(config),
        "batch_size": config.training.batch_size,
    }


def read_meta(folder: Path) -> dict[str, Any]:
    """A cache's ``meta.json``, of the types in :data:`SCHEMA`.

    Raises:
        ConfigError: if it is missing, no JSON, of another format or ill-typed.
    """
    where = f"teacher.cache = '{folder}'"
    try:
        found = json.loads((folder / META).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{where} is not a teacher cache ({error}); {NEW}") from error
    version = found.get("format") if isinstance(found, dict) else None
    if version != FORMAT:
        raise ConfigError(f"{where} has format {version!r}, this version reads {FORMAT}; {NEW}")
    for problem in (*_ill_typed(found, SCHEMA, META), *_ill_typed_files(found.get("files"))):
        raise ConfigError(f"{where} is damaged: {problem}; {NEW}")
    if found["shard_rows"] < 1 or min(found["rows"], default=1) < 0:
        raise ConfigError(f"{where} is damaged: {META}: a number of rows is too small; {NEW}")
    return found


def check_cache(folder: Path, config: Config, teacher_tok: ByteifiedTokenizer, form: str) -> None:
    """See that the cache serves the run; ``form`` as in :func:`describe_run`.

    Raises:
        ConfigError: naming what differs, both values and what to do.
    """
    meta = read_meta(folder)
    for what, found, wanted in _compare(meta, config, teacher_tok, form):
        if found != wanted:
            raise ConfigError(
                f"teacher.cache = '{folder}' was made with {what} = {found}, this run has "
                f"{wanted}: make them equal, or {NEW}"
            )
    covered = meta["steps"] * meta["batch_size"]
    read = text_steps(config) * config.training.batch_size
    if covered < read and not meta["whole"]:
        raise ConfigError(
            f"teacher.cache = '{folder}' covers {covered} rows ({meta['steps']} steps of "
            f"{meta['batch_size']}), this run reads {read} ({text_steps(config)} of "
            f"{config.training.batch_size}): lower training.steps or batch_size, or {NEW}"
        )


def difference(found: dict[str, Any], wanted: dict[str, Any]) -> str | None:
    """The first part of one ``meta.json`` that is another in the other one; None if none is."""
    for key in wanted:
        theirs, ours = found.get(key), wanted[key]
        if isinstance(theirs, dict) and isinstance(ours, dict):
            inner = difference(theirs, ours)
            if inner is not None:
                return inner if key == "settings" else f"{key}: {inner}"
        elif theirs != ours:
            return f"{key} = {theirs!r} there, {ours!r} here"
    return None


def _compare(
    meta: dict[str, Any], config: Config, teacher_tok: ByteifiedTokenizer, form: str
) -> Iterator[tuple[str, object, object]]:
    """What must be equal: its name, and its values in the cache and in the run."""
    yield from _compare_teacher(meta["teacher"], config)
    spec, mine = meta["tokenizer"], _tokenizer(teacher_tok)
    if spec["fingerprint"] != mine["fingerprint"]:
        yield "teacher.tokenizer", _named(spec, "spec"), _named(mine, "spec")
    # Another form may come of another student alone.
    yield "texts in Unicode form", repr(meta["form"]), repr(form)
    settings = _settings(config)
    for key in {**settings, **meta["settings"]}:
        yield key, repr(meta["settings"].get(key)), repr(settings.get(key))
    names = [source["name"] for source in meta["data"]], config.data.train
    yield "the number of sources in data.train", len(names[0]), len(names[1])
    for theirs, name in zip(meta["data"], config.data.train, strict=True):
        ours = source_identity(name)
        # Files may have been moved, but a dataset of the hub is known by its name alone.
        same = theirs["fingerprint"] == ours["fingerprint"] and theirs["bytes"] == ours["bytes"]
        if not same or (name.startswith("hf:") and theirs["name"] != name):
            yield "data.train", _named(theirs, "name"), _named(ours, "name")


def _compare_teacher(meta: dict[str, Any], config: Config) -> Iterator[tuple[str, object, object]]:
    yield "training.dtype", repr(meta["dtype"]), repr(config.training.dtype)
    own = not config.teacher.model
    if own and not meta["self_distillation"]:
        return  # the cache stands for a teacher that this run does not name
    key, name = ("student.model" if own else "teacher.model"), _teacher_name(config)
    folder = resolve_model_folder(name) if own else local_model_folder(name)
    if folder is None:  # a teacher that was never here: its weights cannot be compared
        yield key, repr(meta["model"]), repr(name)
        return
    mine = _teacher(config, folder, own)
    if meta["weights"] != mine["weights"]:
        yield key, _named(meta, "model", "weights"), _named(mine, "model", "weights")


def _named(part: dict[str, Any], name: str, mark: str = "fingerprint") -> str:
    """A model, tokenizer or source by its name and what tells it from others of that name."""
    size = f", {part['bytes']:,} bytes" if "bytes" in part else ""
    return f"'{part[name]}' ({mark} {part[mark][:12] or 'unknown'}{size})"


def _teacher_name(config: Config) -> str:
    return config.teacher.model or config.student.model


def _teacher(config: Config, folder: Path, own: bool) -> dict[str, Any]:
    """A teacher's identity: its name, weights (with config.json) and dtype."""
    paths = [folder / "config.json"]
    drawn = own and config.student.init == "random"
    if not drawn:
        paths += SafetensorsSource.paths(folder)
    try:
        weights = fingerprint(paths)
    except OSError as error:
        raise ModelError(f"model folder '{folder}' cannot be read: {error}") from error
    return {
        "model": _teacher_name(config),
        "revision": folder.name if folder.parent.name == "snapshots" else "",
        "weights": f"{weights}, drawn with seed {config.job.seed}" if drawn else weights,
        "dtype": config.training.dtype,
    }


def reads_like_the_teacher(folder: Path, tok: ByteifiedTokenizer) -> bool:
    """Whether a tokenizer is that of a cache's teacher, whatever either is called."""
    return read_meta(folder)["tokenizer"]["fingerprint"] == _tokenizer(tok)["fingerprint"]


def _tokenizer(tok: ByteifiedTokenizer) -> dict[str, str]:
    spec, pipeline = tok.spec, tok.hf.backend_tokenizer.to_str()
    chat = sorted(tok.chat.texts.items()) if tok.chat else []
    options = (
        f"{spec.source}:{spec.target}:{spec.conversion}:{tok.family.name}:{tok.text_bos}:{chat}:"
        f"{pipeline}"
    )
    digest = hashlib.blake2b(options.encode(), digest_size=16).hexdigest()
    return {"spec": str(spec), "fingerprint": digest}


def _settings(config: Config) -> dict[str, Any]:
    """Values by full name, as JSON gives them back."""
    values = config_tables(config)
    keys = [*ORDER, *(["data.shuffle_buffer"] if config.data.streaming else [])]
    found = {key: values[section][name] for key in keys for section, name in [key.split(".")]}
    found |= {f"chat.{name}": value for name, value in values["chat"].items()}
    eos = "eos_as_space" in config.alm.mode
    found["alm.space_mask_mode"] = "eos_as_space" if eos else config.alm.space_mask_mode
    return json.loads(json.dumps(found))


def _ill_typed_files(files: Any) -> Iterator[str]:
    entry = {"bytes": int, "hash": str, "tokens": int}
    for name, value in files.items() if isinstance(files, dict) else ():
        yield from _ill_typed(value, entry, f"{META}: files: {name}")


def _ill_typed(value: Any, wanted: Any, where: str) -> Iterator[str]:
    """One line for each part of ``value`` that is missing or has not the type wanted."""
    kind: Any = wanted if isinstance(wanted, type) else type(wanted)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is int):
        yield f"{where} is {type(value).__name__}, not {kind.__name__}"
    elif isinstance(wanted, dict):
        for key, part in wanted.items():
            yield from _ill_typed(value.get(key), part, f"{where}: {key}")
    elif isinstance(wanted, list):
        for number, part in enumerate(value):
            yield from _ill_typed(part, wanted[0], f"{where}[{number}]")
