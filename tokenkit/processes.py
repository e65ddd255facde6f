"""Processes and their parents: ranks end with their launcher, data workers with their rank."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

SAVING_SECONDS = 120.0
SET_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of Linux's prctl


def end_with_launcher() -> None:
    """Let torchrun's death, however sudden, be the end of this rank, too.

    It is told by SIGTERM, so that it can save, and killed if that takes long. A rank started by
    hand stays: its shell may be closed.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return
    parent = os.getppid()
    grace = SAVING_SECONDS if _ask_kernel(signal.SIGTERM) else 0.0
    threading.Thread(target=_watch, args=(parent, grace), daemon=True).start()
    if os.getppid() == 1 and not _first_process_is_python():
        _end()  # torchrun had died before: init has taken this process over


def end_with_parent() -> None:
    """Let this process be killed as soon as the one that started it has died."""
    parent = os.getppid()
    if not _ask_kernel(signal.SIGKILL):
        threading.Thread(target=_watch, args=(parent,), daemon=True).start()
    if os.getppid() != parent:  # too late for the kernel's signal
        _end()


def _ask_kernel(number: signal.Signals) -> bool:
    """Whether the kernel will send a signal when the parent dies."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        return ctypes.CDLL(None).prctl(SET_DEATH_SIGNAL, number, 0, 0, 0) == 0
    except (OSError, AttributeError):  # a libc without it
        return False


def _watch(parent: int, grace: float = 0.0) -> None:
    while os.getppid() == parent:
        time.sleep(1.0)
    time.sleep(grace)
    _end()


def _end() -> None:
    """At once: other ranks may have gone, and an exit would wait for them."""
    os.kill(os.getpid(), signal.SIGKILL)


def _first_process_is_python() -> bool:
    """Whether a launcher may be process 1, as it is in a container of its own."""
    try:
        return b"python" in Path("/proc/1/cmdline").read_bytes()
    except OSError:
        return True


def process_start(pid: int) -> str | None:
    """When a process of this machine started, in words that differ for another of its number.

    None if there is none (or only what its parent has not yet asked for).
    """
    if sys.platform.startswith("linux"):
        try:
            # The name, in brackets, may hold anything.
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return None
        return None if fields[0] in "ZX" else fields[19]
    found = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True)
    return found.stdout.strip() or None
