"""One logger for the package; rank 0 speaks, the others only warn."""

from __future__ import annotations

import json
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from tokenkit.errors import ConfigError

logger = logging.getLogger("tokenkit")
_others_speak = False  # whether what all ranks would say is left to other ranks
SAID = "TOKENKIT_SAID"  # names a file of the warnings that a command gave before this stage of it
_said: set[str] = set()
# What libraries say that a user can do nothing about: the beginnings of their messages.
NOISE = (
    # Said by torchdata on every start, about its own code.
    "'set_vital' is deprecated",
    # Said of outputs that nobody writes into.
    "FSDP2-wrapped module .* returned a view tensor",
    # Their new names are not in all versions of torch that are supported.
    r"`torch\.distributed\.(all_gather_into|reduce_scatter)_tensor` is deprecated",
    # fp32 is computed as such on purpose, see training.environment.
    "TensorFloat32 tensor cores for float32 matrix multiplication available but not enabled",
)


class LineHandler(logging.StreamHandler):
    """Writes to stderr; progress bars make room, so that each record has lines of its own."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm = sys.modules.get("tqdm")  # imported where there is a bar
        with nullcontext() if tqdm is None else tqdm.tqdm.external_write_mode(sys.stderr):
            super().emit(record)


def logging_ranks() -> set[int]:
    """The ranks that ``LOG_RANK`` (default "0") lists.

    Raises:
        ConfigError: if it lists anything else.
    """
    text = os.environ.get("LOG_RANK", "0")
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not all(part.isdecimal() and len(part) < 10 for part in parts):
        raise ConfigError(f"LOG_RANK = '{text}' in the environment: expected ranks, such as 0,1")
    return {int(part) for part in parts}


def init_logger(rank: int = 0) -> None:
    """Log to stderr. ``LOG_RANK`` lists the ranks that log at INFO."""
    global _others_speak
    bars_only_in_terminals()
    speaking = logging_ranks()
    _others_speak = rank not in speaking
    handler = LineHandler()
    prefix = "" if rank in speaking and len(speaking) == 1 else f"[rank {rank}] "
    handler.setFormatter(logging.Formatter(f"{prefix}%(asctime)s %(message)s", "%H:%M:%S"))
    logger.handlers[:] = [handler]
    logger.setLevel(logging.INFO if rank in speaking else logging.WARNING)
    logger.propagate = False
    for message in NOISE:
        warnings.filterwarnings("ignore", message=message)


def bars_only_in_terminals() -> None:
    """No progress bars of libraries in files: each turn would be one more line there.

    tqdm looks at this when it is imported; processes that are started inherit it.
    """
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")


def warn_once(line: str) -> None:
    """A warning that other ranks, or other stages of a command, have the same reason for."""
    shared = Path(os.environ.get(SAID, os.devnull))
    with suppress(OSError, ValueError):
        _said.update(_read_said(shared))
    if _others_speak or line in _said:
        return
    _said.add(line)
    with suppress(OSError), shared.open("a", encoding="ascii") as file:
        file.write(f"{json.dumps(line)}\n")
    logger.warning(line)


def _read_said(shared: Path) -> list[str]:
    return [json.loads(line) for line in shared.read_text(encoding="ascii").splitlines()]


@contextmanager
def warnings_shared() -> Iterator[dict[str, str]]:
    """An environment in which a stage of this command repeats no warning that was given."""
    with tempfile.NamedTemporaryFile("w", prefix="tokenkit-", encoding="ascii") as file:
        file.writelines(f"{json.dumps(line)}\n" for line in sorted(_said))
        file.flush()
        yield {SAID: file.name}
        with suppress(OSError, ValueError):
            _said.update(_read_said(Path(file.name)))
