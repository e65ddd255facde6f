"""Export a run's student as a folder that plain ``transformers`` loads.

    tokenkit export --run outputs/x --output exported/x

Adapters are merged, the new vocabulary and tokenizer go in; nothing of tokenkit is needed to use
the result.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from tokenkit.cli.arguments import CommandParser, at_least, said_of
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
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    init_logger()
    refuse_existing(args.output, "--output", "folder")

    import torch

    from tokenkit.export.run import export_run
    from tokenkit.training.restore import load_run_config

    with said_of("--run"):
        load_run_config(args.run)

    dtype = getattr(torch, args.dtype) if args.dtype else None
    tokens = export_run(args.run, args.output, args.step, dtype)
    logger.info(f"{args.output}: model and tokenizer of {args.run}, {tokens:,} tokens")
