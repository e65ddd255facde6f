"""Small data and small configs for tests of the data room."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from torch import Tensor

from tests.launch import SPEC_A, SPEC_B
from tokenkit.config import Config, config_from_dict

__all__ = ["SPEC_A", "SPEC_B", "equal", "make_config", "write_rows"]


def write_rows(path: Path, rows: list[Any]) -> Path:
    """One JSON row a line; strings are written as they are."""
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def make_config(train: list[Path] | Path, **sections: dict[str, Any]) -> Config:
    """A config whose steps take 8 rows; ``sections`` override."""
    names = [str(p) for p in train] if isinstance(train, list) else [str(train)]
    base = {
        "job": {"seed": 5},
        "data": {"train": names, "deal": "order"},  # what is where can be told
        "training": {
            "batch_size": 8,
            "micro_batch_size": 8,
            "max_student_length": 48,
            "max_teacher_length": 48,
        },
    }
    for section, values in sections.items():
        base[section] = {**base.get(section, {}), **values}
    return config_from_dict(base)


def equal(one: Any, other: Any) -> bool:
    """Whether two batches, or parts of them, are the same, bit for bit."""
    if type(one) is not type(other):
        return False
    if isinstance(one, Tensor):
        return one.dtype == other.dtype and one.equal(other)
    if dataclasses.is_dataclass(one):
        return equal(vars(one), vars(other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(equal, one, other))
    return one == other
