"""Export a run's student as a folder that plain ``transformers`` loads.

    python scripts/export.py --run outputs/x --output exported/x

Adapters are merged, the new vocabulary and tokenizer go in; nothing of tokenkit is needed to use
the result.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from tokenkit.errors import run_main
from tokenkit.export.folder import save_hf_folder
from tokenkit.io import refuse_existing
from tokenkit.log import init_logger, logger
from tokenkit.training.build import student_rows
from tokenkit.training.restore import load_run, merged_tensors

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", type=Path, required=True, help="output directory of a run")
    parser.add_argument("--output", type=Path, required=True, help="folder to write (new)")
    parser.add_argument(
        "--step", type=int, default=-1, help="checkpoint (-1: latest, 0: as the run started)"
    )
    parser.add_argument("--dtype", choices=DTYPES, help="of the weights; default the source's own")
    args = parser.parse_args()
    init_logger()
    refuse_existing(args.output, "--output", "folder")
    config, source, student, tokenizers = load_run(args.run, args.step)
    rows = student_rows(source, tokenizers)
    backbone, inputs, outputs = merged_tensors(config, student, rows)
    dtype = DTYPES.get(args.dtype)
    toks = tokenizers.source, tokenizers.student
    save_hf_folder(source, backbone, inputs, outputs, *toks, args.output, dtype)
    logger.info(
        f"{args.output}: model and tokenizer of {args.run}, {len(tokenizers.student):,} tokens"
    )


if __name__ == "__main__":
    run_main(main)
