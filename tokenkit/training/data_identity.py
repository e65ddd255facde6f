"""Whether data are still the same: their size and a fingerprint of what they hold."""

from __future__ import annotations

from typing import Any

from tokenkit.config import Config
from tokenkit.data.sources import local_files
from tokenkit.training.fingerprint import fingerprint


def source_identity(name: str) -> dict[str, Any]:
    """A data source's identity. Datasets of the hub are known by name."""
    paths = [] if name.startswith("hf:") else local_files(name)
    size = sum(path.stat().st_size for path in paths)
    mark = fingerprint(paths) if paths else ""
    return {"name": name, "files": len(paths), "bytes": size, "fingerprint": mark}


def data_identity(config: Config) -> list[dict[str, Any]]:
    """Of all sources that a run trains on."""
    return [source_identity(name) for name in config.data.train]


def changed_source(saved: list[dict[str, Any]], now: list[dict[str, Any]]) -> str | None:
    """The first source that is not what it was, and how; None if all are."""
    for old, new in zip(saved, now, strict=False):
        if old["bytes"] != new["bytes"]:
            return f"'{new['name']}' has {new['bytes']:,} bytes, it had {old['bytes']:,}"
        if old["fingerprint"] != new["fingerprint"]:
            return f"'{new['name']}' holds other data of the same size than it did"
    return None
