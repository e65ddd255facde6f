"""Models side by side: one page with plots, the same as JSON, and Markdown for a model card.

    tokenkit compare teacher/ zero_shot/ outputs/run --data held_out.jsonl --output report/
    tokenkit compare A B --data a.jsonl b.jsonl --tasks arc_easy,piqa --output report/

Each is a model folder, a hub id or a run not yet exported; the first is the teacher, which the
others are held against, unless ``--teacher`` names another. One alone is described by itself. The
new folder holds ``index.html`` (which asks for nothing from elsewhere), ``report.json`` and
``report.md``.
"""

from __future__ import annotations

import argparse
import json
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from tokenkit.cli.arguments import CommandParser, at_least, said_of
from tokenkit.cli.eval import check_finite, limit
from tokenkit.errors import ConfigError
from tokenkit.extras import need_extra
from tokenkit.io import new_folder, refuse_existing
from tokenkit.log import init_logger

if TYPE_CHECKING:
    import torch

    from tokenkit.evaluation.comparison.entry import Entry
    from tokenkit.evaluation.comparison.report import Plan, TaskScores


def parse_arguments() -> argparse.Namespace:
    parser = CommandParser(__doc__)
    add = parser.add_argument
    add("models", nargs="+", metavar="MODEL", help="model folder, hub id or run")
    add("--output", type=Path, required=True, help="folder to write (new)")
    add("--teacher", help="which of them the others are held against (default: the first)")
    add("--tokenizers", nargs="+", help="a tokenizer spec each (default: the models' own)")
    add("--trust-remote-code", action="store_true", help="run Python code of model folders")
    parser.add_device()
    text = parser.add_argument_group("bits per byte")
    text.add_argument("--data", nargs="+", required=True, help="files, folders or hf:name")
    text.add_argument("--max-documents", type=at_least(1), default=256, help="to read of each")
    text.add_argument("--max-bytes", type=at_least(16), default=2048, help="bytes a window")
    text.add_argument("--batch-size", type=at_least(1), default=8, help="windows, or texts")
    text.add_argument("--text-field", default="text", help="field of a row that holds the text")
    own = parser.add_argument_group("texts that models write")
    own.add_argument("--prompts", type=Path, help="lines, or JSONL, that texts go on from")
    own.add_argument("--own-texts", type=at_least(0), default=64, help="by the teacher; 0: none")
    own.add_argument("--own-tokens", type=at_least(1), default=128, help="longest of them")
    own.add_argument("--samples", type=at_least(1), default=4, help="prompts that are shown")
    own.add_argument("--sample-tokens", type=at_least(1), default=64, help="longest sample")
    own.add_argument("--seed", type=at_least(0), default=0, help="of the teacher's texts")
    tasks = parser.add_argument_group("lm-eval")
    tasks.add_argument("--tasks", help="names, separated by commas")
    tasks.add_argument("--include-path", help="folder with further task files")
    tasks.add_argument("--limit", type=limit, help="documents a task (or a share below 1)")
    run = parser.add_argument_group("training")
    run.add_argument("--run", type=Path, help="run of the last model: curves, and what it began as")
    run.add_argument("--start", help="folder that training began with, such as a zero-shot one")
    return parser.parse_args()


def check(args: argparse.Namespace) -> None:
    """Refuse what cannot work before anything is loaded.

    Raises:
        TokenkitError: naming the option.
    """
    refuse_existing(args.output, "--output", "folder")
    if args.tokenizers and len(args.tokenizers) != len(args.models):
        raise ConfigError(
            f"--tokenizers names {len(args.tokenizers)} for {len(args.models)} models; give one "
            "for each"
        )
    if args.teacher is not None and args.teacher not in args.models:
        raise ConfigError(
            f"--teacher '{args.teacher}' is none of the models compared: {', '.join(args.models)}"
        )
    for option in ("include_path", "limit"):
        if getattr(args, option) is not None and not args.tasks:
            raise ConfigError(f"--{option.replace('_', '-')} needs --tasks, whose it is")
    if args.include_path is not None and not Path(args.include_path).is_dir():
        raise ConfigError(f"--include-path '{args.include_path}' is not a folder")
    if args.run is not None and not (args.run / "config.toml").is_file():
        raise ConfigError(f"--run '{args.run}' is not a run's output directory: no config.toml")
    if args.run is not None and args.start is not None:
        raise ConfigError("--run says what training began with: leave out --start")
    if args.tasks:
        need_extra("eval", "--tasks")

        from tokenkit.evaluation.tasks import find_tasks

        find_tasks(args.tasks.split(","), args.include_path)


def open_entries(args: argparse.Namespace, stack: ExitStack) -> list[Entry]:
    """The models, for as long as the stack is open.

    Raises:
        TokenkitError: if one cannot be found, or its tokenizer not be read.
    """
    from tokenkit.evaluation.comparison.entry import Entry, short_names
    from tokenkit.export.run import opened_model
    from tokenkit.inference.model import check_code
    from tokenkit.models.weights import resolve_model_folder
    from tokenkit.tokenizers import load_tokenizer

    entries = []
    specs = args.tokenizers or [None] * len(args.models)
    names = short_names(args.models)
    for name, model, spec in zip(names, args.models, specs, strict=True):
        folder = stack.enter_context(opened_model(model))
        is_run = folder != model
        path = resolve_model_folder(folder)
        trusted = args.trust_remote_code or is_run
        check_code(model, path, trusted)
        entry = Entry(name, model, folder, load_tokenizer(spec or str(path)), trusted=trusted)
        if is_run:
            entry.run = Path(model)
            entry.start = stack.enter_context(opened_model(model, step=0))
        entries.append(entry)
    if args.run is not None:
        entries[-1].run = args.run
        entries[-1].start = stack.enter_context(opened_model(str(args.run), step=0))
    if args.start is not None:
        give_start(entries, args.start)
    return entries


def give_start(entries: list[Entry], start: str) -> None:
    """``--start`` is where those with the same tokens began that know of none, but not itself.

    Raises:
        ConfigError: if there is no such model.
    """
    from tokenkit.models.weights import resolve_model_folder
    from tokenkit.tokenizers import load_tokenizer

    folder = resolve_model_folder(start)
    tokens = load_tokenizer(str(folder)).tokens
    fitting = [
        entry
        for entry in entries
        if entry.start is None
        and entry.tok.tokens == tokens
        and resolve_model_folder(entry.folder).resolve() != folder.resolve()
    ]
    if not fitting:
        raise ConfigError(f"--start '{start}': no other model compared has the same tokens")
    for entry in fitting:
        entry.start = str(folder)


def plan_of(args: argparse.Namespace, device: torch.device) -> Plan:
    """What is to be measured.

    Raises:
        DataError: if a file cannot be used.
    """
    from tokenkit.evaluation.comparison.report import Plan
    from tokenkit.evaluation.comparison.scoring import Windows
    from tokenkit.evaluation.folder import read_texts
    from tokenkit.inference.prompts import read_texts_of

    return Plan(
        {file: read_texts([file], args.max_documents, args.text_field) for file in args.data},
        Windows(args.max_bytes, args.batch_size, device),
        prompts=read_texts_of(args.prompts) if args.prompts else [],
        own_count=args.own_texts,
        own_tokens=args.own_tokens,
        sample_count=args.samples,
        sample_tokens=args.sample_tokens,
        seed=args.seed,
    )


def task_scores(entry: Entry, args: argparse.Namespace, device: str) -> TaskScores:
    """lm-eval's value and standard error (None if unknown) of each ``task/metric``.

    Args:
        args: with ``tasks``, ``include_path`` and ``limit``.

    Raises:
        ConfigError: naming the first task that does not exist.
        ModelError: if the model cannot be loaded, or a value is not finite.
    """
    from lm_eval import simple_evaluate

    from tokenkit.evaluation.lm_eval_model import TokenkitLM
    from tokenkit.evaluation.tasks import find_tasks, scores

    names, tasks = find_tasks(args.tasks.split(","), args.include_path)
    model = TokenkitLM(
        entry.folder, device=device, trust_remote_code=entry.trusted,
        max_bytes=args.max_bytes, batch_size=args.batch_size,
    )  # fmt: skip
    results = simple_evaluate(
        model=model, tasks=names, task_manager=tasks, limit=args.limit, bootstrap_iters=1000
    )
    with said_of(f"model '{entry.model}'"):
        check_finite(results)
    return dict(scores(results["results"]))


def main() -> None:
    args = parse_arguments()
    init_logger()
    check(args)

    from transformers.utils import logging

    from tokenkit.evaluation.comparison.markdown import markdown
    from tokenkit.evaluation.comparison.page import page
    from tokenkit.evaluation.comparison.report import compare
    from tokenkit.evaluation.device import usable_device

    logging.disable_progress_bar()
    device = usable_device(args.device)
    plan = plan_of(args, device)

    def ask(entry: Entry) -> TaskScores:
        return task_scores(entry, args, str(device))

    with ExitStack() as stack:
        entries = open_entries(args, stack)
        teacher = entries[args.models.index(args.teacher) if args.teacher else 0]
        report = compare(entries, teacher, plan, ask if args.tasks else None)
    with new_folder(args.output) as folder:
        (folder / "index.html").write_text(page(report), encoding="utf-8")
        (folder / "report.md").write_text(markdown(report), encoding="utf-8")
        whole = json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False)
        (folder / "report.json").write_text(whole + "\n", encoding="utf-8")
    print(f"{args.output / 'index.html'}: {', '.join(entry.name for entry in entries)}")
