"""torchrun without its walls of text: ``python -m tokenkit.launcher [torchrun's options] FILE …``.

A rank that fails has said why. torchrun then adds a table and a traceback of its own, and a stop by
the user looks like a crash. Here the error stands alone, and the exit code is the rank's.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from types import FrameType

HINTS = {
    "SIGKILL": ": out of memory?",
    "SIGBUS": ": was a file that it reads cut short, or is the disk full or gone?",
}


def main() -> int:
    """Start the ranks and wait for them; returns the exit code."""
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # connections that end with a rank

    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "120")  # seconds to save in

    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    logging.disable(logging.CRITICAL)  # torchrun's reports; ranks have their own logging
    # SLURM's warning ends a process that does not know it; the ranks take it like SIGTERM.
    signal.signal(signal.SIGUSR1, _as_sigterm)
    try:
        run(parse_args(None))
    except ChildFailedError as error:
        return _report(error)
    except SignalException as error:
        return 128 + int(error.sigval)
    except KeyboardInterrupt:
        return 128 + int(signal.SIGINT)
    return 0


def _as_sigterm(_number: int, _frame: FrameType | None) -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def _report(error) -> int:
    """Say what no rank could say itself; returns the exit code."""
    failures = error.failures
    rank, first = min(failures.items(), key=lambda item: item[1].timestamp)
    spoke = [failure for failure in failures.values() if failure.exitcode in (1, 2)]
    if spoke:
        return spoke[0].exitcode
    if first.exitcode < 0:
        name = signal.Signals(-first.exitcode).name
        hint = HINTS.get(name, "")
        print(f"error: rank {rank} was ended by {name}{hint}", file=sys.stderr, flush=True)
        return 128 - first.exitcode
    return first.exitcode


if __name__ == "__main__":
    sys.exit(main())
