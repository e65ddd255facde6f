"""torchrun without its walls of text: ``python -m tokenkit.launcher [torchrun's options] FILE …``.

A rank that fails has said why. torchrun then adds a table and a traceback of its own, and a stop by
the user looks like a crash. Here the error stands alone, and the exit code is the rank's. Where
tokenkit is installed, torchrun itself behaves so when it starts a program of tokenkit.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import MutableMapping
from pathlib import Path
from types import FrameType, TracebackType

# Intel's and LLVM's OpenMP reads KMP_BLOCKTIME, GNU's GOMP_SPINCOUNT.
PASSIVE = {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0", "GOMP_SPINCOUNT": "0"}
PROGRAMS = ("train.py", "run_train.sh")
HINTS = {
    "SIGKILL": ": out of memory?",
    "SIGBUS": ": was a file that it reads cut short, or is the disk full or gone?",
}


def main() -> int:
    """Start the ranks and wait for them; returns the exit code."""
    _let_ranks_speak()
    try:
        from torch.distributed.run import parse_args, run
    except ModuleNotFoundError as error:
        print(
            f"error: {sys.executable} has no {error.name}: activate the environment that tokenkit "
            "is installed in, or name its interpreter (PYTHON=/path/to/python ./run_train.sh)",
            file=sys.stderr,
        )
        return 2
    try:
        run(parse_args(None))
    except BaseException as error:
        code = _exit_code(error)
        if code is None:
            raise
        return code
    return 0


def plugin():
    """What torchrun calls as it starts (entry point ``torchrun.handlers``), whatever it will run.

    Of another's program nothing is changed. The group is made for rendezvous backends, and wants
    one; there is none to choose here.
    """
    if _starts_tokenkit(sys.argv[1:]):
        _let_ranks_speak()
        sys.excepthook = _excepthook
    return _no_backend


def _starts_tokenkit(arguments: list[str]) -> bool:
    """Whether a command line of torchrun names a program of tokenkit."""
    for argument in arguments:
        path = Path(argument)
        if path.is_file():  # the program: values of torchrun's options are no files
            # At the top of a checkout, or inside an installed package
            ours = ((path.parent / f / "launcher.py").is_file() for f in ("tokenkit", ""))
            return path.name == "tokenkit" or (path.name in PROGRAMS and any(ours))
    return "tokenkit" in arguments  # torchrun -m tokenkit


def _no_backend(_parameters):
    raise ValueError("tokenkit is no rendezvous backend; choose c10d, torchrun's default")


def wait_passively(environment: MutableMapping[str, str]) -> None:
    """Let threads of OpenMP sleep while they wait, in processes that get this environment.

    They spin by default, which on a machine with other work takes the time of those they wait for.
    What the user has set stays.
    """
    for name, value in PASSIVE.items():
        environment.setdefault(name, value)


def _let_ranks_speak() -> None:
    """Settle what this process says itself and sends to its ranks."""
    wait_passively(os.environ)
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # connections that end with a rank
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "120")  # seconds to save in
    logging.disable(logging.CRITICAL)  # torchrun's reports; ranks have their own logging
    # SLURM's warning ends a process that does not know it; the ranks take it like SIGTERM.
    signal.signal(signal.SIGUSR1, _as_sigterm)


def _excepthook(
    kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    code = _exit_code(error)
    if code is None:
        sys.__excepthook__(kind, error, traceback)
    else:
        sys.exit(code)


def _exit_code(error: BaseException) -> int | None:
    """Of torchrun, where no more needs to be said of what ended it; None of other errors."""
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    if isinstance(error, ChildFailedError):
        return _report(error)
    if isinstance(error, SignalException):
        return 128 + int(error.sigval)
    if isinstance(error, KeyboardInterrupt):
        return 128 + int(signal.SIGINT)
    return None


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
