"""Small data and small configs for tests of the data room."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.launch import SPEC_A, SPEC_B
from tokenkit.batch import Batch
from tokenkit.config import Config, config_from_dict
from tokenkit.tokenizers.sampling.token_forms import TokenForms

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
        "data": {"train": names},
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


def _flat(batch: Batch) -> dict[str, Any]:
    flat = {}
    for name, value in vars(batch).items():
        if isinstance(value, dict):
            flat |= {f"{name}.{key}": item for key, item in value.items()}
        elif isinstance(value, TokenForms):
            flat |= {f"{name}.{key}": item for key, item in vars(value).items()}
        else:
            flat[name] = value
    return flat


def equal(one: Batch, other: Batch) -> bool:
    """Whether two batches are the same, bit for bit."""
    a, b = _flat(one), _flat(other)
    if a.keys() != b.keys():
        return False
    return all(
        a[k].dtype == b[k].dtype and a[k].equal(b[k]) if hasattr(a[k], "equal") else a[k] == b[k]
        for k in a
    )
