"""What ``tokenkit compare`` asks of lm-eval: the one place where the two meet."""

from __future__ import annotations

import argparse
from typing import Any

from tokenkit.cli.eval import evaluate
from tokenkit.evaluation.comparison.entry import Entry
from tokenkit.evaluation.comparison.report import TaskScores


def task_scores(entry: Entry, args: argparse.Namespace, device: str) -> TaskScores:
    """Value and standard error (None if unknown) of each ``task/metric``.

    Args:
        args: with ``tasks``, ``include_path`` and ``limit``.

    Raises:
        ConfigError: naming the first task that does not exist.
        ModelError: if the model cannot be loaded.
    """
    asked = argparse.Namespace(**vars(args))
    asked.model, asked.batch_size = entry.folder, str(args.batch_size)
    found: TaskScores = {}
    results: dict[str, dict[str, Any]] = evaluate(asked, device)["results"]
    for task, metrics in results.items():
        for key, value in metrics.items():
            name, comma, kind = key.partition(",")
            if not comma or not isinstance(value, (int, float)) or name.endswith("_stderr"):
                continue
            error = metrics.get(f"{name}_stderr,{kind}")
            label = name if kind == "none" else key
            found[f"{task}/{label}"] = value, error if isinstance(error, float) else None
    return found
