"""How commands read their arguments: one parser, and the types of values."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

from tokenkit.errors import ConfigError, TokenkitError, one_line

LARGEST = 2**31 - 1
SEED = 2**32 - 1  # the largest that numpy takes
WORKERS = 1024

OPTION = re.compile(r"(--\w[\w-]*)(=.*)?", re.DOTALL)


class CommandParser(argparse.ArgumentParser):
    """A parser whose options are spelt with dashes; the older ``--max_documents`` is understood.

    Args:
        description: the command's docstring, printed as it is.
    """

    def __init__(self, description: str | None) -> None:
        super().__init__(
            description=description, formatter_class=argparse.RawDescriptionHelpFormatter
        )

    def parse_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> argparse.Namespace:
        given = sys.argv[1:] if args is None else args
        return super().parse_args([with_dashes(argument) for argument in given], namespace)

    def error(self, message: str) -> NoReturn:
        """One line like all others, instead of the usage."""
        message = message.removeprefix("argument ")
        raise ConfigError(f"{message} (--help lists all options)")

    def add_device(self) -> None:
        """``--device``; None leaves the choice to ``usable_device``."""
        self.add_argument("--device", help="default: cuda if there is one, else cpu")


@contextmanager
def said_of(option: str) -> Iterator[None]:
    """What is wrong inside is wrong with this option: its name, as typed, begins the message."""
    try:
        yield
    except TokenkitError as error:
        if str(error).startswith(option):
            raise
        raise type(error)(f"{option}: {error}") from error


def with_dashes(argument: str) -> str:
    """``--max_documents=8`` as ``--max-documents=8``; what is no option stays as it is."""
    found = OPTION.fullmatch(argument)
    return found[1].replace("_", "-") + (found[2] or "") if found else argument


def at_least(minimum: int, most: int = LARGEST) -> Callable[[str], int]:
    """A type of values: an integer from ``minimum`` to ``most``."""

    def parse(text: str) -> int:
        integer = re.fullmatch(r"-?\d{1,18}", text)
        if not integer or not minimum <= int(text) <= most:
            to = "on" if most == LARGEST else f"to {most}"
            raise argparse.ArgumentTypeError(
                f"'{one_line(text, 40)}' is not an integer from {minimum} {to}"
            )
        return int(text)

    return parse


def not_negative(text: str) -> float:
    """A type of values: a finite number from 0 on."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"'{text}' is not a number from 0 on")
    return value
