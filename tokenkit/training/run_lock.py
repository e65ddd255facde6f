"""An output directory belongs to one run at a time: a file in it says whose it is."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tokenkit.errors import CheckpointError, ConfigError
from tokenkit.io import new_file
from tokenkit.log import logger
from tokenkit.processes import process_start

NAME = "run.lock"
# A killed run's processes take some time to vanish, those with a GPU most.
PATIENCE = 5.0  # seconds
# A run touches its file so often; of another machine's, one untouched for long has ended.
BEAT, STALE = 30.0, 300.0


@dataclass(frozen=True)
class Owner:
    """The process that holds a folder: a run's first rank.

    Attributes:
        start: of the process, see :func:`process_start`; numbers of processes are used again.
        since: Unix time at which it took the folder.
    """

    host: str
    pid: int
    start: str | None
    since: float

    @classmethod
    def this_process(cls) -> Owner:
        pid = os.getpid()
        return cls(socket.gethostname(), pid, process_start(pid), time.time())

    @property
    def is_here(self) -> bool:
        """Whether it is (or was) a process of this machine, which alone can be asked for it."""
        return self.host == socket.gethostname()

    @property
    def has_ended(self) -> bool:
        return self.is_here and process_start(self.pid) != self.start

    def __str__(self) -> str:
        minutes = max(0, round((time.time() - self.since) / 60))
        age = f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"
        return f"host {self.host}, process {self.pid}, for {age}"


class RunLock:
    """Taken by rank 0 before it writes anything; let go of when the block is left.

    A run that was killed leaves the file behind; its process has ended, and the next run takes
    over. Another machine's processes cannot be looked at, but a run touches its file now and then.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder / NAME
        self._mine: Owner | None = None
        self._left = threading.Event()

    def __enter__(self) -> RunLock:
        return self

    def __exit__(self, *_: Any) -> None:
        mine, self._mine = self._mine, None
        self._left.set()
        if mine is not None:
            with suppress(OSError, CheckpointError):  # the folder may be gone
                if self._owner() == mine:
                    self.path.unlink()

    def take(self, patience: float = PATIENCE) -> None:
        """Take the folder, which is made if missing.

        Args:
            patience: seconds to wait for a process of this machine that may be ending.

        Raises:
            ConfigError: if another run has it, or it cannot be written.
        """
        end = time.monotonic() + patience
        while True:
            try:
                owner = self._try_to_take()
            except OSError as error:
                raise ConfigError(
                    f"job.output_dir = '{self.folder}' cannot be written: {error.strerror or error}"
                ) from error
            if owner is None:
                threading.Thread(target=self._beat, name="run lock", daemon=True).start()
                return
            if not owner.is_here or time.monotonic() >= end:
                raise ConfigError(self._refusal(owner))
            time.sleep(0.1)

    def _try_to_take(self) -> Owner | None:
        """None if the folder is this process's now, else whose it is."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with _alone(self.folder):
            owner = self._owner()
            if owner is not None and owner == self._mine:
                return None
            if owner is not None and not (owner.has_ended or self._is_stale(owner)):
                return owner
            if owner is not None:
                logger.info(f"the last run in {self.folder} was killed ({owner}): taking over")
            self._mine = Owner.this_process()
            with new_file(self.path) as file:
                json.dump(asdict(self._mine), file)
        return None

    def _beat(self) -> None:
        while not self._left.wait(BEAT):
            with suppress(OSError):
                os.utime(self.path)

    def _is_stale(self, owner: Owner) -> bool:
        """Whether a run of another machine has long stopped touching its file.

        By the clock of the disk: those of machines differ.
        """
        if owner.is_here:
            return False
        with tempfile.NamedTemporaryFile(dir=self.folder) as now, suppress(OSError):
            return os.stat(now.name).st_mtime - self.path.stat().st_mtime > STALE
        return False

    def _owner(self) -> Owner | None:
        try:
            return Owner(**json.loads(self.path.read_text()))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError) as error:
            raise CheckpointError(
                f"'{self.path}' cannot be read; if no run is at work in this folder, delete it"
            ) from error

    def _refusal(self, owner: Owner) -> str:
        where = f"job.output_dir = '{self.folder}' is in use by another run ({owner})"
        if owner.is_here:
            return f"{where}; wait for its end, or choose another folder"
        return (
            f"{where}, which this machine cannot look at; choose another folder, or, if that run "
            f"has ended, wait {STALE / 60:.0f} minutes or delete '{self.path}'"
        )


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One process at a time, so that no two take the place of one that has ended."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # not every file system has locks; the file still tells most
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
