"""How commands read their arguments: one parser, and the types of values."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence

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

    def add_device(self) -> None:
        """``--device``; None leaves the choice to ``usable_device``."""
        self.add_argument("--device", help="default: cuda if there is one, else cpu")


def with_dashes(argument: str) -> str:
    """``--max_documents=8`` as ``--max-documents=8``; what is no option stays as it is."""
    found = OPTION.fullmatch(argument)
    return found[1].replace("_", "-") + (found[2] or "") if found else argument


def at_least(minimum: int) -> Callable[[str], int]:
    """A type of values: an integer not below ``minimum``."""

    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < minimum:
            raise argparse.ArgumentTypeError(f"'{text}' is not an integer from {minimum} on")
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
