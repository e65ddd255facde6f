"""What a run needs of the hub, brought here before any rank waits for another.

Processes of one machine take turns behind a file lock beside the hub's cache: the first one
fetches, the others find it there. From then on the hub is not asked any more, not even whether a
file has changed: what hundreds of ranks would ask, each of them for each file.
"""

from __future__ import annotations

import fcntl
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tokenkit.config import Config
from tokenkit.config.local_paths import tokenizer_path
from tokenkit.config.validate_paths import looks_local
from tokenkit.data.sources import open_source
from tokenkit.errors import ConfigError, DataError, ModelError
from tokenkit.models.weights import local_model_folder, resolve_model_folder
from tokenkit.tokenizers.spec import parse_spec

# Of a tokenizer, or of a model whose weights are drawn: no weights.
SMALL = ["*.json", "*.jinja", "*.model", "*.tiktoken", "vocab.*", "merges.txt"]
LOOK_EVERY = 0.2  # seconds


class Need(NamedTuple):
    """Something that the settings name.

    Attributes:
        key: that names it.
        kind: "model", "config", "tokenizer" or "data".
        split: of a data set.
    """

    key: str
    name: str
    kind: str
    split: str = ""

    @property
    def is_local(self) -> bool:
        if self.kind == "data":
            return not self.name.startswith("hf:")
        return looks_local(tokenizer_path(self.name))


def needs(config: Config) -> list[Need]:
    """All models, tokenizers and data sets of a run, each once; streams are not brought here.

    Raises:
        TokenizerError: if a tokenizer's spec is malformed.
    """
    student, teacher, data = config.student, config.teacher, config.data
    kind = "model" if student.init == "pretrained" else "config"
    found = [Need("student.model", student.model, kind)]
    if not teacher.cache:
        found.append(Need("teacher.model", teacher.model, "model"))
    specs = {
        "student.tokenizer": [student.tokenizer],
        "student.target_tokenizer": [student.target_tokenizer],
        "teacher.tokenizer": [teacher.tokenizer],
        "eval.tokenizers": config.eval.tokenizers,
    }
    for key, given in specs.items():
        for spec in filter(None, given):
            parse_spec(spec)  # what is misspelt is not looked for
            found.append(Need(key, spec, "tokenizer"))
    for key, names in (("data.train", data.train), ("data.validation", data.validation)):
        found += [
            Need(key, name, "data", data.split)
            for name in names
            if not (data.streaming and name.startswith("hf:"))
        ]
    named = {(need.kind, need.name): need for need in reversed(found) if need.name}
    return [need for need in found if named.get((need.kind, need.name)) is need]


def is_here(need: Need) -> bool:
    """Whether it can be read without the hub."""
    if need.kind == "model":
        return local_model_folder(need.name) is not None
    if need.kind == "data":
        with offline():
            try:
                open_source(need.name, need.split)
            except DataError:
                return False
        return True
    folder = _small_files(need.name, here_only=True)
    names = ("config.json",) if need.kind == "config" else ("tokenizer.json", *SMALL[2:])
    return folder is not None and any(any(folder.glob(name)) for name in names)


def fetch(need: Need) -> None:
    """Bring it here.

    Raises:
        ModelError, DataError: if the hub cannot provide it.
    """
    if need.kind == "model":
        resolve_model_folder(need.name)
    elif need.kind == "data":
        open_source(need.name, need.split)
    else:
        _small_files(need.name, here_only=False)


def _small_files(spec: str, here_only: bool) -> Path | None:
    from huggingface_hub import snapshot_download

    name, _, revision = tokenizer_path(spec).partition("@")
    options = {"revision": revision or None, "local_files_only": here_only}
    try:
        return Path(snapshot_download(name, allow_patterns=SMALL, **options))
    except Exception as error:
        if here_only:
            return None
        raise ModelError(f"'{name}' cannot be fetched from the hub: {error}") from error


def fetch_all(config: Config, say: Callable[[Need, str], object] = lambda need, what: None) -> None:
    """Bring here what is not, one process of a machine at a time, and go offline.

    Args:
        say: told of each thing: "local", "here" or "fetched".

    Raises:
        ModelError, DataError: if the hub cannot provide something.
        ConfigError: if another process holds the lock longer than ``job.startup_timeout_minutes``.
    """
    found = needs(config)
    if any(not need.is_local for need in found):
        with turn(_lock_file(), 60 * config.job.startup_timeout_minutes):
            for need in found:
                state = "local" if need.is_local else "here" if is_here(need) else "fetched"
                if state == "fetched":
                    fetch(need)
                say(need, state)
        # Streams and the data of tasks are still to be asked for.
        if not config.data.streaming and not config.eval.tasks:
            go_offline()
    else:
        for need in found:
            say(need, "local")


def _lock_file() -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE) / "tokenkit-fetch.lock"


@contextmanager
def turn(path: Path, seconds: float) -> Iterator[None]:
    """Be the only process of this machine within, after at most so many seconds.

    Raises:
        ConfigError: if it does not come to that.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a")
    except OSError:  # a cache that can only be read: nothing is fetched into it
        yield
        return
    with file:
        end = time.monotonic() + seconds
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() >= end:
                    raise ConfigError(
                        f"job.startup_timeout_minutes = {seconds / 60:g} are over, and another "
                        f"process is still fetching from the hub ('{path}'): run tokenkit fetch "
                        "first, or allow more"
                    ) from error
                time.sleep(LOOK_EVERY)
            except OSError:  # no locks on this file system: the hub's own library has some
                break
        yield


def go_offline() -> None:
    """Ask the hub for nothing from now on, in this process and those that it starts."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    _set_offline(True)


@contextmanager
def offline() -> Iterator[None]:
    """Ask the hub for nothing within."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    _set_offline(True)
    try:
        yield
    finally:
        _set_offline(before)


def _set_offline(value: bool) -> None:
    from huggingface_hub import constants

    constants.HF_HUB_OFFLINE = value  # both read the environment when they are imported
    if "datasets" in sys.modules:
        from datasets import config

        config.HF_HUB_OFFLINE = value
