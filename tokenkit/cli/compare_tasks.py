"""What ``tokenkit compare`` asks of lm-eval: the one place where the two meet."""

from __future__ import annotations

import argparse
from typing import Any

from tokenkit.cli.eval import evaluate


def task_scores(
    folder: str, tasks: str, include_path: str | None, limit: float | None, device: str
) -> dict[str, tuple[float, float | None]]:
    """Value and standard error (None if unknown) of each ``task/metric``.

    Raises:
        ConfigError: naming the first task that does not exist.
        ModelError: if the model cannot be loaded.
    """
    args = argparse.Namespace(
        model=folder, tasks=tasks, include_path=include_path, limit=limit, batch_size="8"
    )
    found: dict[str, tuple[float, float | None]] = {}
    results: dict[str, dict[str, Any]] = evaluate(args, device)["results"]
    for task, metrics in results.items():
        for key, value in metrics.items():
            name, comma, kind = key.partition(",")
            if not comma or not isinstance(value, (int, float)) or name.endswith("_stderr"):
                continue
            error = metrics.get(f"{name}_stderr,{kind}")
            label = name if kind == "none" else key
            found[f"{task}/{label}"] = value, error if isinstance(error, float) else None
    return found
