"""Run a command in this process or in one of its own, and look at how it ends."""

from __future__ import annotations

import importlib
import os
import re
import runpy
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import torch.distributed as dist

from tests.launch import CONTEXT, ROOT
from tokenkit.errors import TokenkitError, one_line

LIMIT = 20  # seconds; most take a tenth of one, but the machine may be busy
LONGEST = 300  # characters of an error line
Environment = Mapping[str, str | None]
PLAIN: Environment = {
    "TOKENKIT_TRACEBACK": None,
    "CUDA_VISIBLE_DEVICES": "",
    "HF_HUB_OFFLINE": "1",
    **dict.fromkeys(("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "LOG_RANK")),
}


def set_environment(values: Environment) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


@contextmanager
def end_after(seconds: int) -> Iterator[None]:
    """Fail a test that hangs, and give the process's signals back."""

    def stop(*_: object) -> None:
        raise AssertionError(f"not refused within {seconds} s")

    numbers = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGALRM)
    before = {number: signal.getsignal(number) for number in numbers}
    signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        for number, handler in before.items():
            signal.signal(number, handler)


def main_of(command: str) -> Callable[[], None]:
    module = "train" if command == "train" else f"tokenkit.cli.{command}"
    return importlib.import_module(module).main


def refusal(
    command: str, argv: Sequence[str], folder: Path, environment: Environment | None = None
) -> str:
    """The line with which ``train`` or a command refuses its arguments, run in this process.

    Args:
        folder: where it is run.
        environment: variables to set, or (None) to unset.

    Raises:
        AssertionError: if it does not refuse them, or not in time.
    """
    main, cwd = main_of(command), os.getcwd()
    begin = time.time()
    with mock.patch.dict(os.environ), mock.patch.object(sys, "argv", [command, *argv]):
        set_environment({**PLAIN, **(environment or {})})
        os.chdir(folder)
        try:
            with end_after(LIMIT):
                main()
        except TokenkitError as error:
            line = f"error: {one_line(error)}"
        else:
            raise AssertionError("not refused")
        finally:
            os.chdir(cwd)
            if dist.is_initialized():
                dist.destroy_process_group()
    assert time.time() - begin < LIMIT
    assert len(line) <= LONGEST, f"{len(line)} characters: {line}"
    return line


@dataclass
class Outcome:
    """How a process ended."""

    code: int | None  # None: it ran past the limit and was killed
    seconds: float
    text: str  # all it said

    @property
    def error(self) -> str:
        """Its one line.

        Raises:
            AssertionError: if it did not fail with one clear line, in time.
        """
        tail = f"exit code {self.code} after {self.seconds:.1f} s\n{self.text[-3000:]}"
        assert self.code is not None and self.code > 0, tail
        assert "Traceback" not in self.text, tail
        errors = [line for line in self.text.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1, tail
        assert len(errors[0]) <= LONGEST, f"{len(errors[0])} characters: {errors[0]}"
        return errors[0]


def _process_main(
    command: str, argv: list[str], log: str, cwd: str, environment: Environment
) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    set_environment({**PLAIN, **environment})
    os.chdir(cwd)
    import torch

    torch.set_num_threads(1)
    script = "train.py" if command == "train" else f"scripts/{command}.py"
    sys.argv = [script, *argv]
    runpy.run_path(str(Path(ROOT) / script), run_name="__main__")


def run_command(
    command: str, argv: Sequence[str], folder: Path, environment: Environment | None = None
) -> Outcome:
    """Run ``train.py`` or a script as a user would, in a process of its own."""
    log = folder.with_name(f"{folder.name}.log")
    log.unlink(missing_ok=True)
    arguments = (command, list(argv), str(log), str(folder), dict(environment or {}))
    process = CONTEXT.Process(target=_process_main, args=arguments)
    begin = time.time()
    process.start()
    process.join(LIMIT)
    seconds, code = time.time() - begin, process.exitcode
    if code is None:
        process.kill()
        process.join()
    return Outcome(code, seconds, log.read_text(errors="replace") if log.exists() else "")


def check_refused(line: str, says: str, folder: Path) -> None:
    """The line matches ``says``, and nothing was written into the folder."""
    assert re.search(says, line), line
    # Counting goes on where it was stopped.
    written = [path.name for path in folder.iterdir() if path.name != "counted.partial"]
    assert not written, written
