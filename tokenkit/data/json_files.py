"""JSON rows with the lines they stand in: JSON Lines by offset, and lists."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np

from tokenkit.errors import DataError

SCAN_BYTES = 1 << 26
BLANKS = np.frombuffer(b" \t\r\n", dtype=np.uint8)

TOO_LONG_NUMBER = f"an integer of more than {sys.get_int_max_str_digits()} digits; write a string"
_SPACE = re.compile(r"[ \t\r\n]*")


def _line_starts(path: Path) -> np.ndarray:
    """Byte offset of every line and of the end of the file, ``[lines + 1]`` int64."""
    starts, offset = [np.zeros(1, dtype=np.int64)], 0
    with path.open("rb") as file:
        while chunk := file.read(SCAN_BYTES):
            found = np.flatnonzero(np.frombuffer(chunk, dtype=np.uint8) == ord("\n"))
            starts.append(found + offset + 1)
            offset += len(chunk)
    joined = np.concatenate(starts)
    return joined if joined[-1] == offset else np.append(joined, offset)


def _decode(data: bytes, where: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: not UTF-8 (byte {error.start + 1} of it)") from error


class JsonLines:
    """One JSON object a line; only the lines' offsets are held in memory.

    Lines that hold nothing but their end are no rows.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.starts = _line_starts(path)
        blank = self._blank_lines()
        self.lines = None if blank is None else np.flatnonzero(~blank)
        self._file: Any = None

    def _blank_lines(self) -> np.ndarray | None:
        """Which lines are blank, ``[lines]`` bool; None if none is."""
        short = np.flatnonzero(np.diff(self.starts) <= len("\r\n"))
        if not len(short):
            return None
        data = np.memmap(self.path, dtype=np.uint8, mode="r")
        ends = data[self.starts[short]], data[self.starts[short + 1] - 1]
        blank = np.zeros(len(self.starts) - 1, dtype=bool)
        blank[short] = np.isin(ends[0], BLANKS) & np.isin(ends[1], BLANKS)
        return blank if blank.any() else None

    def __len__(self) -> int:
        return len(self.starts) - 1 if self.lines is None else len(self.lines)

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_file": None}

    def _bytes_of(self, line: int, where: str) -> bytes:
        """One line, read anew. Memory-mapped, a file that is cut short would end the process."""
        if self._file is None:
            self._file = self.path.open("rb", buffering=0)
        begin, end = int(self.starts[line]), int(self.starts[line + 1])
        data = os.pread(self._file.fileno(), end - begin, begin)
        if len(data) < end - begin:
            raise DataError(
                f"{where}: the file has become shorter while it was read; put it back, then run "
                "again to go on"
            )
        return data

    def _line(self, index: int) -> int:
        return index if self.lines is None else int(self.lines[index])

    def size(self, index: int) -> int:
        """Bytes of a row's line."""
        line = self._line(index)
        return int(self.starts[line + 1] - self.starts[line])

    def read(self, index: int) -> tuple[Any, str]:
        """A row and where it stands.

        Raises:
            DataError: if the line is not JSON.
        """
        line = self._line(index)
        where = f"{self.path}:{line + 1}"
        text = _decode(self._bytes_of(line, where), where)
        try:
            return json.loads(text.rstrip("\r\n")), where
        except json.JSONDecodeError as error:
            raise DataError(
                f"{where}: not a JSON object on one line ({error.msg}, column {error.pos + 1})"
            ) from error
        except RecursionError as error:
            raise DataError(f"{where}: JSON nested too deeply") from error
        except ValueError as error:
            raise DataError(f"{where}: {TOO_LONG_NUMBER}") from error


def read_json_list(path: Path) -> tuple[list[Any], list[int]]:
    """The items of a JSON list, and the line (from 1) in which each begins.

    Raises:
        DataError: if the file is not one JSON list.
    """
    text = _decode(path.read_bytes(), str(path))
    decoder = json.JSONDecoder()
    items: list[Any] = []
    lines: list[int] = []
    line, counted = 1, 0

    def skip_space(position: int) -> int:
        return _SPACE.match(text, position).end()

    def refuse(position: int, reason: str) -> DataError:
        at = text.count("\n", 0, position) + 1
        return DataError(f"{path}:{at}: not a list of JSON rows ({reason})")

    position = skip_space(skip_space(0) + 1)  # behind the bracket
    closed = text[position : position + 1] == "]"
    while not closed:
        line, counted = line + text.count("\n", counted, position), position
        try:
            item, position = decoder.raw_decode(text, position)
        except json.JSONDecodeError as error:
            raise refuse(error.pos, error.msg) from error
        except RecursionError as error:
            raise refuse(position, "nested too deeply") from error
        except ValueError as error:
            raise refuse(position, TOO_LONG_NUMBER) from error
        items.append(item)
        lines.append(line)
        position = skip_space(position)
        closed = text[position : position + 1] == "]"
        if not closed:
            if text[position : position + 1] != ",":
                raise refuse(position, "expected ',' or ']' after a row")
            position = skip_space(position + 1)
    if skip_space(position + 1) != len(text):
        raise refuse(position + 1, "something follows the list")
    return items, lines
