"""A time limit for chat templates: programs from a stranger's folder, whose loops may never end."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from tokenkit.errors import TokenizerError

SECONDS = 5.0  # real templates take milliseconds


@contextmanager
def time_limit() -> Iterator[None]:
    """End the block by an error if it runs longer than :data:`SECONDS`.

    By an alarm, which Python delivers to the main thread alone; elsewhere there is no limit.

    Raises:
        TokenizerError: if the time is over.
    """

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise TokenizerError(f"its chat template runs for more than {SECONDS:.0f} seconds")

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGALRM, stop)
    left, interval = signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, left, interval)
        signal.signal(signal.SIGALRM, before)
