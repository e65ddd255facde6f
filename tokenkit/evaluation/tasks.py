"""lm-eval's tasks by name: found, refused in one line, and their scores as plain numbers."""

from __future__ import annotations

import math
from typing import Any

from lm_eval.tasks import TaskManager

from tokenkit.errors import ConfigError, DataError
from tokenkit.registry import did_you_mean


class Tasks(TaskManager):
    """lm-eval's tasks, or those of a folder; what cannot be loaded is said in one line."""

    def load(self, task_list: Any) -> Any:
        """Tasks with their data.

        Raises:
            DataError: if a task's file or data cannot be read.
        """
        try:
            return super().load(task_list)
        except Exception as error:  # YAML, JSON, hub and script errors of any task
            raise DataError(f"tasks {task_list} cannot be loaded: {error}") from error


def find_tasks(
    names: list[str], include_path: str | None, option: str = "--tasks"
) -> tuple[list[str], Tasks]:
    """All tasks that names or patterns (``mmlu_*``) stand for.

    Args:
        include_path: folder with further task files; where all names are there, lm-eval's own
            thousands of files are not read.
        option: what named them; the message begins with it.

    Raises:
        ConfigError: naming the first that does not exist, and one like it.
    """
    defaults = [False, True] if include_path else [True]
    for include_defaults in defaults:
        tasks = Tasks(include_path=include_path, include_defaults=include_defaults)
        found = {name: tasks.match_tasks([name]) for name in names}
        if all(found.values()):
            return list(dict.fromkeys(task for some in found.values() for task in some)), tasks
    missing = next(name for name in names if not found[name])
    nor = "" if include_path is None else f" (nor has {include_path})"
    raise ConfigError(
        f"{option}: lm-eval has no task '{missing}'{nor}{did_you_mean(missing, tasks.all_tasks)}"
    )


def scores(results: dict[str, dict[str, Any]]) -> dict[str, tuple[float, float]]:
    """Value and standard error (NaN if unknown) of each ``task/metric``.

    Args:
        results: lm-eval's ``results["results"]``. A metric after another filter than "none" has
            the filter behind its name.
    """
    found = {}
    for task, metrics in results.items():
        for key, value in metrics.items():
            name, comma, kind = key.partition(",")
            if not comma or not isinstance(value, (int, float)) or name.endswith("_stderr"):
                continue
            error = metrics.get(f"{name}_stderr,{kind}")
            error = float(error) if isinstance(error, (int, float)) else math.nan
            label = name if kind == "none" else f"{name},{kind}"
            found[f"{task}/{label}"] = float(value), error
    return found
