"""Errors a user can act on: one clear line that names the key or file and what would be right."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import NoReturn

# Exit codes
CLEAR_ERROR, INTERRUPTED = 2, 130

LONGEST_WORDS = (64, 48, 32, 24)  # characters, tried on a message that is too long
LONGEST = 290  # characters of a message: a line, with "error: " before it, under 300


class TokenkitError(Exception):
    """Base of all errors caused by input rather than by a defect of tokenkit."""


class ConfigError(TokenkitError):
    """A configuration key is unknown, ill-typed, or impossible together with another."""


class DataError(TokenkitError):
    """A data file or row cannot be used; the message names the file and line."""


class TokenizerError(TokenkitError):
    """A tokenizer specification is malformed or the tokenizer cannot be byteified."""


class ModelError(TokenkitError):
    """A model folder is missing, or its family or shapes are not supported."""


class TrainingError(TokenkitError):
    """Training cannot go on with what it was given: its numbers are no longer finite."""


class CheckpointError(TokenkitError):
    """A checkpoint is missing, damaged, or belongs to another run."""


class ReadError(DataError):
    """Data that could be read cannot be any more. Another try may meet this no more."""


class DiskError(CheckpointError):
    """A disk is full, read-only or gone. Unlike other errors, another try may meet it no more."""


def one_line(message: object, longest: int = LONGEST) -> str:
    """A message on one line, shortened if need be.

    Long words (paths, mostly) lose their middle first, then the message: what is wrong stands
    first in it, what would be right last.
    """
    words = str(message).split()
    tried = [" ".join(words)]
    for most in LONGEST_WORDS:
        head, tail = most // 4, most - most // 4
        shorter = (f"{w[:head]}…{w[-tail:]}" if len(w) > most + 1 else w for w in words)
        tried.append(" ".join(shorter))
    for text in tried:
        if len(text) <= longest:
            return text
    end, text = longest // 3, tried[1]
    return f"{text[: longest - end - 3]} … {text[-end:]}"


def leave(error: TokenkitError, silent: bool = False) -> NoReturn:
    """Show an error as one line and end the process at once."""
    if not silent:
        print(f"error: {one_line(error)}", file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(CLEAR_ERROR)


def run_main(main: Callable[[], None]) -> None:
    """Run a command line's ``main``; a :class:`TokenkitError` becomes one line and exit code 2.

    Set ``TOKENKIT_TRACEBACK=1`` to see the full traceback. The process leaves at once
    (``os._exit``), so that nothing waits in ``atexit``. Ctrl-C ends it without a traceback.
    """
    try:
        main()
    except TokenkitError as error:
        if os.environ.get("TOKENKIT_TRACEBACK") == "1":
            raise
        leave(error)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr, flush=True)
        os._exit(INTERRUPTED)
