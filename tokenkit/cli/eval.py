"""Run lm-eval tasks on an exported model with lm-eval's own Hugging Face backend.

    tokenkit eval --model exported/x --tasks arc_easy,piqa --limit 100

``--include-path`` adds a folder of task files, which may read local data and so work offline.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

from tokenkit.cli.arguments import CommandParser
from tokenkit.errors import ConfigError, ModelError
from tokenkit.log import init_logger


def parse_arguments() -> argparse.Namespace:
    parser = CommandParser(__doc__)
    parser.add_argument("--model", required=True, help="model folder (tokenkit export makes one)")
    parser.add_argument("--tasks", required=True, help="names, separated by commas")
    parser.add_argument("--include-path", help="folder with further task files")
    parser.add_argument("--limit", type=float, help="documents a task (or a share below 1)")
    parser.add_argument("--output", type=Path, help="write all results as JSON")
    parser.add_argument("--batch-size", default="8", help="a number, or auto")
    parser.add_device()
    return parser.parse_args()


def evaluate(args: argparse.Namespace, device: str) -> dict:
    """lm-eval's results for the given tasks.

    Raises:
        ConfigError: naming the first task that does not exist.
        ModelError: if the model folder cannot be loaded, or a tensor is not finite.
    """
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    from tokenkit.models.weights import SafetensorsSource, local_model_folder

    tasks = args.tasks.split(",")
    manager = TaskManager(include_path=args.include_path)
    for task in tasks:
        if not manager.match_tasks([task]):
            raise ConfigError(
                f"--tasks: lm-eval has no task '{task}'"
                + ("" if args.include_path is None else f" (nor has {args.include_path})")
            )
    folder = local_model_folder(args.model)
    if folder is not None:  # accuracies of NaN would look like any others
        SafetensorsSource(folder).check()
    try:
        model = HFLM(pretrained=args.model, device=device, batch_size=args.batch_size)
    except (OSError, ValueError) as error:
        raise ModelError(f"--model '{args.model}' cannot be loaded: {error}") from error
    return simple_evaluate(
        model=model, tasks=tasks, task_manager=manager, limit=args.limit, bootstrap_iters=1000
    )


def print_table(results: dict) -> None:
    """One line per task and metric."""
    print(f"{'task':<32} {'metric':<20} {'value':>10} {'stderr':>10}")
    for task, metrics in results["results"].items():
        for key, value in metrics.items():
            name, _, kind = key.partition(",")
            if not isinstance(value, (int, float)) or name.endswith("_stderr"):
                continue
            error = metrics.get(f"{name}_stderr,{kind}", "")
            error = f"{error:>10.4f}" if isinstance(error, float) else f"{error:>10}"
            print(f"{task:<32} {name:<20} {value:>10.4f} {error}")


def check_finite(results: dict) -> None:
    """Refuse results that are no numbers; a standard error of one document may be none.

    Raises:
        ModelError: naming the task and the metric.
    """
    for task, metrics in results["results"].items():
        for key, value in metrics.items():
            name = key.partition(",")[0]
            number = isinstance(value, (int, float)) and not name.endswith("_stderr")
            if number and not math.isfinite(value):
                raise ModelError(f"task '{task}': {name} is {value}; nothing is written")


def main() -> None:
    args = parse_arguments()
    init_logger()
    if args.include_path is not None and not Path(args.include_path).is_dir():
        raise ConfigError(f"--include-path '{args.include_path}' is not a folder")
    if Path(args.model).exists() and not (Path(args.model) / "config.json").is_file():
        raise ModelError(f"--model '{args.model}' has no config.json")

    from tokenkit.evaluation.device import usable_device

    results = evaluate(args, str(usable_device(args.device)))
    print_table(results)
    check_finite(results)
    if args.output:
        kept = {key: results[key] for key in ("results", "versions", "n-shot") if key in results}
        args.output.write_text(json.dumps(kept, indent=2, default=str) + "\n")
