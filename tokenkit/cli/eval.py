"""Run lm-eval tasks on a model folder, a hub id, or a run not yet exported.

    tokenkit eval --model exported/x --tasks arc_easy,piqa --limit 100

``--include-path`` adds a folder of task files, which may read local data and so work offline.
Several GPUs: ``torchrun --nproc-per-node 8 -m tokenkit eval …``; each answers a share.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenkit.cli.arguments import CommandParser, at_least
from tokenkit.config.validate_paths import looks_local
from tokenkit.errors import ConfigError, ModelError
from tokenkit.extras import need_extra
from tokenkit.io import new_file, refuse_existing
from tokenkit.log import init_logger
from tokenkit.ranks import rank, world_size

if TYPE_CHECKING:
    from tokenkit.evaluation.harness import ByteFairLM

KEPT = ("results", "versions", "n-shot", "n-samples", "higher_is_better", "config")


def add_task_options(parser: CommandParser, tasks_required: bool = True) -> None:
    """Which tasks run, and how; the same for one model and for several."""
    add = parser.add_argument
    add("--tasks", required=tasks_required, help="names or patterns, separated by commas")
    add("--include-path", help="folder with further task files")
    add("--limit", type=limit, help="documents a task (or a share below 1)")
    add("--num-fewshot", type=at_least(0), help="examples in the prompt (default: the task's)")
    add("--apply-chat-template", action="store_true", help="prompts are chats")
    add("--fewshot-as-multiturn", action=argparse.BooleanOptionalAction, default=True,
        help="in chats, examples are turns")  # fmt: skip
    add("--system-instruction", help="system prompt of chats")
    add("--gen-kwargs", help="for tasks that generate: temperature=0.7,do_sample=True")
    add("--output", type=Path, help="write all results as JSON (new file)")
    add("--log-samples", action="store_true", help="write each answer beside --output, too")
    add("--batch-size", type=batch_size, default="8", help="a number, or auto")
    add("--dtype", default="auto", help="auto (the config's), float32, bfloat16 or float16")
    add("--max-bytes", type=at_least(16), default=2048, help="bytes a window of whole documents")
    add("--seed", type=int, help="of examples and sampling (default: lm-eval's own)")
    add("--trust-remote-code", action="store_true", help="run Python code of the model")
    parser.add_device()


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
    parser.add_argument("--model", required=True, help="folder, hub id, or a run's output folder")
    parser.add_argument("--step", type=int, default=-1, help="of a run's checkpoint (-1: latest)")
    parser.add_argument(
        "--tokenizer", default="", help="tokenizer spec, if not what the model's files say"
    )
    add_task_options(parser)
    return parser.parse_args()


@contextmanager
def only_first_rank_speaks() -> Iterator[None]:
    """Other ranks are silent within: lm-eval prints on all of them."""
    with ExitStack() as stack:
        if rank():
            os.environ["TQDM_DISABLE"] = "1"  # read when tqdm is imported
            stack.enter_context(redirect_stdout(stack.enter_context(open(os.devnull, "w"))))
            logging.getLogger("lm_eval").setLevel(logging.ERROR)
        yield


def check_options(args: argparse.Namespace) -> None:
    """What can be refused before a model is loaded.

    Raises:
        TokenkitError: naming the option.
    """
    if args.tasks is not None and not all(name.strip() for name in args.tasks.split(",")):
        raise ConfigError(f"--tasks '{args.tasks}': a name is empty; such as piqa,arc_easy")
    if args.include_path is not None and not Path(args.include_path).is_dir():
        raise ConfigError(f"--include-path '{args.include_path}' is not a folder")
    size = args.batch_size.partition(":")[0]
    if size != "auto" and not (size.isdecimal() and int(size)):
        raise ConfigError(f"--batch-size '{args.batch_size}' is neither a number above 0 nor auto")
    if args.limit is not None and args.limit <= 0:
        raise ConfigError(f"--limit {args.limit:g} leaves no document; name a number above 0")
    if args.log_samples and args.output is None:
        raise ConfigError("--log-samples needs --output: answers are written beside it")
    for path in [args.output, samples_file(args)] if args.output else []:
        refuse_existing(path, "--output", "file")


def samples_file(args: argparse.Namespace) -> Path:
    """Where answers are written."""
    return args.output.with_name(f"{args.output.stem}.samples.jsonl")


def evaluate(args: argparse.Namespace, model: ByteFairLM, names: list[str], tasks: Any) -> Any:
    """lm-eval's results; None on all ranks but the first.

    Raises:
        TokenkitError: if a task's data cannot be read, or there is no chat template.
    """
    from lm_eval import simple_evaluate

    if args.apply_chat_template and not model.tokenizer.chat_template:
        raise ConfigError("--apply-chat-template: this model has no chat template")
    kinds = ("random_seed", "numpy_random_seed", "torch_random_seed", "fewshot_random_seed")
    seeds = {} if args.seed is None else dict.fromkeys(kinds, args.seed)
    return simple_evaluate(
        model=model,
        tasks=names,
        task_manager=tasks,
        limit=args.limit,
        num_fewshot=args.num_fewshot,
        apply_chat_template=args.apply_chat_template,
        fewshot_as_multiturn=args.fewshot_as_multiturn and args.apply_chat_template,
        system_instruction=args.system_instruction,
        gen_kwargs=args.gen_kwargs,
        log_samples=args.log_samples,
        bootstrap_iters=1000,
        **seeds,
    )


def print_table(results: dict) -> None:
    """One line per task and metric."""
    from tokenkit.evaluation.tasks import scores

    print(f"{'task':<32} {'metric':<20} {'value':>10} {'stderr':>10}")
    for name, (value, error) in scores(results["results"]).items():
        task, _, metric = name.rpartition("/")
        shown = "" if math.isnan(error) else f"{error:.4f}"
        print(f"{task:<32} {metric:<20} {value:>10.4f} {shown:>10}")


def report(args: argparse.Namespace, results: dict) -> None:
    """Print and write what was found."""
    print_table(results)
    check_finite(results)
    if args.output is None:
        return
    with new_file(args.output) as file:
        kept = {key: results[key] for key in KEPT if key in results}
        file.write(json.dumps(kept, indent=2, default=str) + "\n")
    if args.log_samples:
        with new_file(samples_file(args)) as file:
            for task, samples in results["samples"].items():
                for sample in samples:
                    row = {"task": task, **sample}
                    file.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")


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
    init_logger(rank())
    check_options(args)
    need_extra("eval", "tokenkit eval")
    with only_first_rank_speaks():
        run(args)


def run(args: argparse.Namespace) -> None:
    """All that follows the options."""
    # Before lm-eval's thousands of tasks are looked through.
    if looks_local(args.model) and not Path(args.model).expanduser().is_dir():
        raise ModelError(f"--model: model folder '{args.model}' does not exist")
    from tokenkit.evaluation.tasks import find_tasks
    from tokenkit.export.lm_eval_run import RunLM

    names, tasks = find_tasks(args.tasks.split(","), args.include_path)
    try:
        model = RunLM(
            args.model, step=args.step, tokenizer=args.tokenizer, dtype=args.dtype,
            device=args.device, trust_remote_code=args.trust_remote_code,
            max_bytes=args.max_bytes, batch_size=args.batch_size,
        )  # fmt: skip
    except ModelError as error:
        raise ModelError(f"--model: {error}") from error
    results = evaluate(args, model, names, tasks)
    if results is not None:
        report(args, results)
    if world_size() > 1:
        import torch.distributed as dist

        dist.destroy_process_group()
