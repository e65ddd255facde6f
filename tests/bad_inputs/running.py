"""Run a command in a process of its own, as a user would, and look at how it ends."""

from __future__ import annotations

import os
import re
import runpy
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.launch import CONTEXT, ROOT

LIMIT = 20  # seconds; the machine may be busy
LONGEST = 300  # characters of an error line


@dataclass
class Outcome:
    """How a command ended."""

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
        lines = self.text.splitlines()
        errors = [line for line in lines if line.startswith("error: ")]
        assert len(errors) == 1, tail
        assert lines[-1] == errors[0], tail
        assert len(errors[0]) <= LONGEST, f"{len(errors[0])} characters: {errors[0]}"
        return errors[0]


def _main(
    command: str, argv: list[str], log: str, cwd: str, environment: Mapping[str, str | None]
) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    defaults = {"TOKENKIT_TRACEBACK": None, "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
    for name, value in {**defaults, **environment}.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    os.chdir(cwd)
    import torch

    torch.set_num_threads(1)
    script = "train.py" if command == "train" else f"scripts/{command}.py"
    sys.argv = [script, *argv]
    runpy.run_path(str(Path(ROOT) / script), run_name="__main__")


def run_command(
    command: str,
    argv: Sequence[str],
    folder: Path,
    environment: Mapping[str, str | None] | None = None,
    limit: float = LIMIT,
) -> Outcome:
    """Run ``train`` or a script by its name.

    Args:
        folder: where it is run; its output is kept beside.
        environment: variables to set, or (None) to unset.
    """
    log = folder.with_name(f"{folder.name}.log")
    arguments = (command, list(argv), str(log), str(folder), dict(environment or {}))
    process = CONTEXT.Process(target=_main, args=arguments)
    begin = time.time()
    process.start()
    process.join(limit)
    seconds = time.time() - begin
    code = process.exitcode
    if code is None:
        process.kill()
        process.join()
    text = log.read_text(errors="replace") if log.exists() else ""
    return Outcome(code, seconds, text)


def contents(folder: Path) -> dict[str, bytes | None]:
    """Everything in a folder: content by path, None for what is no file."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


def check_refused(outcome: Outcome, says: str) -> None:
    """The command failed with one clear line that matches ``says``."""
    line = outcome.error
    assert re.search(says, line), line
