"""Export a run's student as a folder that plain ``transformers`` loads.

    tokenkit export --run outputs/x --output exported/x

Adapters are merged, the new vocabulary and tokenizer go in; nothing of tokenkit is needed to use
the result. ``--adapter`` leaves the base model out: a LoRA adapter as PEFT loads it, with the new
vocabulary beside. ``--push owner/name`` sends the folder to the hub, once it is whole.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from tokenkit.cli.arguments import CommandParser, at_least, said_of
from tokenkit.errors import ConfigError
from tokenkit.io import refuse_existing
from tokenkit.log import init_logger, logger

DTYPES = ("float32", "bfloat16", "float16")


def parse_arguments() -> argparse.Namespace:
    parser = CommandParser(__doc__)
    parser.add_argument("--run", type=Path, required=True, help="output directory of a run")
    parser.add_argument("--output", type=Path, required=True, help="folder to write (new)")
    parser.add_argument(
        "--step",
        type=at_least(-1),
        default=-1,
        help="checkpoint (-1: latest, 0: as the run started)",
    )
    parser.add_argument("--dtype", choices=DTYPES, help="of the weights; default the source's own")
    parser.add_argument("--adapter", action="store_true", help="the adapter alone, for PEFT")
    parser.add_argument("--name", help="in the model card (default: --push, else the folder's)")
    parser.add_argument("--base-model", default="", help="hub id for the model card")
    parser.add_argument("--push", metavar="REPO", help="hub repository to upload to (private)")
    parser.add_argument("--public", action="store_true", help="with --push: a public one")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    init_logger()
    if args.public and not args.push:
        raise ConfigError("--public is of --push: give --push owner/name too")
    refuse_existing(args.output, "--output", "folder")

    import torch

    from tokenkit.export.adapter import export_adapter
    from tokenkit.export.push import Push
    from tokenkit.export.run import export_run
    from tokenkit.training.restore import load_run_config

    with said_of("--run"):
        load_run_config(args.run)

    dtype = getattr(torch, args.dtype) if args.dtype else None
    push = Push(args.push, args.public) if args.push else None
    if push is not None:
        push.check()
    export = export_adapter if args.adapter else export_run
    names = {"name": args.name or args.push or "", "base_model": args.base_model}
    tokens = export(args.run, args.output, args.step, dtype, **names)
    what = "adapter" if args.adapter else "model"
    logger.info(f"{args.output}: {what} and tokenizer of {args.run}, {tokens:,} tokens")
    if push is not None:
        where = push.send(args.output, f"{what.capitalize()} of tokenkit, {args.output.name}")
        logger.info(f"pushed to {where}")
