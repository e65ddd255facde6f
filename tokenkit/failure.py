"""One rank fails: its error is shown once, and the other ranks end without errors of their own.

The first rank to fail leaves a mark in the launcher's store, which outlives all ranks. Others, who
lose their connections, look there before they complain; and a thread looks for those who wait in a
collective that will never end. What was refused once is not tried again by torchrun's restarts.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

from tokenkit.errors import CLEAR_ERROR, INTERRUPTED, DiskError, TokenkitError, leave, one_line
from tokenkit.life import launchers_store, this_life

OTHERS_ERROR = 3  # exit code
LOOK_EVERY, GRACE, SAVING_SECONDS = 1.0, 5.0, 20.0
SAVING = "checkpoint"  # name of the thread that writes one
REFUSED = "tokenkit/refused"  # mark in the launcher's store, of all lives
# No space, no quota, read-only, broken, vanished
DISK_ERRORS = {
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.ESTALE, errno.ENOTCONN
}  # fmt: skip

WATCH = "failures of other ranks"  # name of the thread that looks for them

# Whether the launcher has sent SIGTERM; set by who handles it.
told_to_end = threading.Event()
_over = threading.Event()  # this rank's work


def _mark() -> str:
    life = this_life()
    name = f"start/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
    return f"tokenkit/failed/{name if life is None else life.name}"


def _first_to_fail() -> bool:
    """Whether no other rank has failed before this one; leaves the mark."""
    store = launchers_store()
    try:
        return store is None or store.add(_mark(), 1) == 1
    except RuntimeError:  # the launcher is gone
        return True


def _failed_elsewhere(seconds: float) -> bool:
    """Whether another rank says that it failed, within some seconds."""
    store = launchers_store()
    end = time.monotonic() + seconds
    try:
        while store is not None:
            if store.check([_mark()]):
                return True
            if time.monotonic() > end:
                return False
            time.sleep(0.1)
    except RuntimeError:
        pass
    return False


def watch_for_failures() -> None:
    """From now on this process ends soon after another rank has failed, whatever it waits for."""
    store = launchers_store()
    if store is None:
        return

    def look() -> None:
        try:
            while not store.check([_mark()]):
                if _over.wait(LOOK_EVERY):
                    return
        except RuntimeError:  # the launcher is gone; who else ends us is not known here
            return
        if not _over.wait(GRACE):
            _finish_saving()
            os._exit(OTHERS_ERROR)

    threading.Thread(target=look, name=WATCH, daemon=True).start()


def _stop_watching() -> None:
    """Python's end in the midst of a look at the store would abort the process."""
    _over.set()
    for thread in threading.enumerate():
        if thread.name == WATCH:
            thread.join()


def _finish_saving() -> None:
    """Give a checkpoint that is being written in the background the time to become whole."""
    for thread in threading.enumerate():
        if thread.name == SAVING and thread is not threading.current_thread():
            thread.join(SAVING_SECONDS)


def _end_if_refused_before() -> None:
    """End without a word where torchrun starts again what was refused: it would be again."""
    store = launchers_store()
    with suppress(RuntimeError):
        if store is not None and store.check([REFUSED]):
            _tell_launcher(store.get(REFUSED).decode())
            os._exit(CLEAR_ERROR)


def _leave(error: TokenkitError) -> NoReturn:
    """End with a clear error, which the first rank to fail shows."""
    line = f"error: {one_line(error)}"
    if _first_to_fail():
        # Before all else: the launcher ends this rank as soon as another one has ended.
        # Rank 0 may have left a progress bar half written on the terminal's last line.
        begin = "\r\033[K" if sys.stderr.isatty() else ""
        print(f"{begin}{line}", file=sys.stderr, flush=True)
    _finish_saving()
    store = launchers_store()
    if store is not None and not isinstance(error, DiskError):
        with suppress(RuntimeError):
            store.set(REFUSED, line)
    _tell_launcher(line)
    leave(error, silent=True)


def _tell_launcher(line: str) -> None:
    """Leave the error for torchrun's own report, should it give one: it ends with the line then."""
    path = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if path:
        said = {"message": line, "extraInfo": {"timestamp": int(time.time())}}
        with suppress(OSError), open(path, "w", encoding="utf-8") as file:
            json.dump({"message": said}, file)


def run_rank(main: Callable[[], None]) -> None:
    """As :func:`tokenkit.errors.run_main`, where there may be other ranks.

    The first one that fails shows its error, be it clear or not, and the others are silent.
    """
    _end_if_refused_before()
    try:
        main()
    except TokenkitError as error:
        if os.environ.get("TOKENKIT_TRACEBACK") == "1":
            raise
        _leave(error)
    except KeyboardInterrupt:
        os._exit(INTERRUPTED)
    except Exception as error:
        # A lost connection may be noticed before the rank that failed could say so; of one that
        # was killed, the launcher will speak, and it ends this one now.
        signal.signal(signal.SIGTERM, lambda *_: os._exit(OTHERS_ERROR))
        if told_to_end.is_set() or _failed_elsewhere(seconds=2.0):
            os._exit(OTHERS_ERROR)
        if isinstance(error, OSError) and error.errno in DISK_ERRORS:
            place = f"'{error.filename}'" if error.filename else "a file"
            said = f"{place} cannot be read or written ({error.strerror})"
            _leave(DiskError(f"{said}; checkpoints are whole, run again"))
        _first_to_fail()
        _finish_saving()
        raise
    finally:
        _stop_watching()
