"""Run lm-eval tasks on an exported model with lm-eval's own Hugging Face backend.

    tokenkit eval --model exported/x --tasks arc_easy,piqa --limit 100

``--include-path`` adds a folder of task files, which may read local data and so work offline.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

from tokenkit.cli.arguments import CommandParser, at_least
from tokenkit.config.validate_paths import looks_local
from tokenkit.errors import ConfigError, ModelError
from tokenkit.io import check_place
from tokenkit.log import init_logger


def limit(text: str) -> float:
    """A type of values: a number of documents, or a share of them below 1."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"'{text}' is not a number above 0")
    return value


def batch_size(text: str) -> str:
    """A type of values: an integer from 1 on or, as lm-eval knows it, auto or auto:N."""
    return text if re.fullmatch(r"auto(:\d+)?", text) else str(at_least(1)(text))


def parse_arguments() -> argparse.Namespace:
    parser = CommandParser(__doc__)
    parser.add_argument("--model", required=True, help="model folder (tokenkit export makes one)")
    parser.add_argument("--tasks", required=True, help="names, separated by commas")
    parser.add_argument("--include-path", help="folder with further task files")
    parser.add_argument("--limit", type=limit, help="documents a task (or a share below 1)")
    parser.add_argument("--output", type=Path, help="write all results as JSON")
    parser.add_argument("--batch-size", type=batch_size, default="8", help="a number, or auto")
    parser.add_device()
    return parser.parse_args()


def evaluate(args: argparse.Namespace, device: str) -> dict:
    """lm-eval's results for the given tasks.

    Raises:
        ConfigError: naming the first task that does not exist.
        ModelError: if the model folder cannot be loaded.
    """
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    tasks = args.tasks.split(",")
    manager = TaskManager(include_path=args.include_path)
    for task in tasks:
        if not manager.match_tasks([task]):
            raise ConfigError(
                f"--tasks: lm-eval has no task '{task}'"
                + ("" if args.include_path is None else f" (nor has {args.include_path})")
            )
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


def main() -> None:
    args = parse_arguments()
    init_logger()
    if args.output:
        check_place(args.output, "--output", "file")
    if not all(args.tasks.split(",")):
        raise ConfigError(f"--tasks '{args.tasks}': give names, separated by commas")
    if args.include_path is not None and not Path(args.include_path).is_dir():
        raise ConfigError(f"--include-path '{args.include_path}' is not a folder")
    if looks_local(args.model) and not Path(args.model).is_dir():
        raise ModelError(f"--model '{args.model}': this model folder does not exist")
    if Path(args.model).exists() and not (Path(args.model) / "config.json").is_file():
        raise ModelError(f"--model '{args.model}' has no config.json")

    from tokenkit.evaluation.device import usable_device

    device = usable_device(args.device)
    results = evaluate(args, str(device))
    print_table(results)
    if args.output:
        kept = {key: results[key] for key in ("results", "versions", "n-shot") if key in results}
        args.output.write_text(json.dumps(kept, indent=2, default=str) + "\n")
