"""How a run ends: asked to stop, hung, or done; and what is said then."""

from __future__ import annotations

import faulthandler
import os
import signal
import time
from datetime import timedelta
from types import FrameType

import torch.distributed as dist

from tokenkit.config import Config
from tokenkit.failure import told_to_end
from tokenkit.log import logger

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)  # the last is SLURM's warning


class StopSignal:
    """Becomes true on SIGTERM, SIGUSR1 or Ctrl-C, so that the loop can save and leave.

    A second Ctrl-C ends the process at once.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self.at = 0.0
        for number in SIGNALS:
            signal.signal(number, self._receive)

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        # A launcher may send on what this process was sent as well: that is one wish.
        again = time.monotonic() - self.at > 1.0
        if number == signal.SIGINT and self.received == signal.SIGINT and again:
            os._exit(128 + number)
        if number == signal.SIGTERM:
            told_to_end.set()
        self.received, self.at = signal.Signals(number), time.monotonic()

    def __bool__(self) -> bool:
        return self.received is not None


class Watchdog:
    """Shows where all threads of a rank are when a step takes too long, before others give up."""

    def __init__(self, config: Config) -> None:
        self.minutes = config.job.step_timeout_minutes
        self.steps = 0

    def step(self) -> None:
        """A step begins; :meth:`stop` ends the watch."""
        self.steps += 1
        if self.steps == 2:  # what is compiled or downloaded once is there
            self._shorten_timeouts()
        if self.steps > 1:
            # One after another: what ranks write at once is mixed up.
            share = 0.75 + 0.2 * (dist.get_rank() % 8) / 8
            faulthandler.dump_traceback_later(60 * self.minutes * share)

    def stop(self) -> None:
        faulthandler.cancel_dump_traceback_later()

    def _shorten_timeouts(self) -> None:
        """From the start-up's to a step's, in all groups this rank is in (the teacher's, too)."""
        set_timeout = getattr(dist.distributed_c10d, "_set_pg_timeout", None)
        world = getattr(dist.distributed_c10d, "_world", None)
        if set_timeout is None or world is None:
            return
        for group in list(world.pg_map):
            set_timeout(timedelta(minutes=self.minutes), group)


def say_end(config: Config, first: int, step: int, stop: StopSignal) -> None:
    """What was done, from step ``first`` to ``step``, and what can be done next."""
    folder, steps = config.job.output_dir, config.training.steps
    export = f"next: tokenkit export --run {folder} --output FOLDER"
    saved = config.checkpoint.enable
    if step < steps:
        why = f" ({stop.received.name})" if stop.received else ""
        then = "run again to go on" if saved else "nothing was saved (checkpoint.enable = false)"
        logger.info(f"stopped at step {step} of {steps}{why}; {then}")
    elif first >= steps:
        logger.info(f"already finished: step {step} of {steps} in {folder}; {export}")
    else:
        nothing = "no weights were saved (checkpoint.enable = false)"
        logger.info(f"done: {folder}; {export if saved else nothing}")
