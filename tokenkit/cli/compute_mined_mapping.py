"""Map every token of the student's tokenizer to the teacher's token with the least edit distance.

    tokenkit compute-mined-mapping --teacher T:source=Llama3 --student S:source=Qwen2 \\
        --output mapping.npz

The loss "mined" reads the file from ``mined.mapping``.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tokenkit.cli.arguments import WORKERS, CommandParser, at_least, said_of
from tokenkit.io import refuse_existing
from tokenkit.log import init_logger


def threads(text: str) -> int:
    """A type of values: -1, or an integer from 1 on."""
    return -1 if text == "-1" else at_least(1, WORKERS)(text)


def parse_arguments() -> argparse.Namespace:
    parser = CommandParser(__doc__)
    parser.add_argument("--teacher", required=True, help="spec of the teacher's tokenizer")
    parser.add_argument("--student", required=True, help="spec of the student's tokenizer")
    parser.add_argument("--output", type=Path, required=True, help=".npz file to write (new)")
    parser.add_argument("--workers", type=threads, default=-1, help="threads (-1: all cores)")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    init_logger()
    refuse_existing(args.output, "--output", "file")

    import numpy as np

    from tokenkit.tokenizers import load_tokenizer
    from tokenkit.tokenizers.pairs.mined import compute_mined_mapping, save_mined_mapping

    with said_of("--teacher"):
        teacher_tok = load_tokenizer(args.teacher)
    with said_of("--student"):
        student_tok = load_tokenizer(args.student)
    mapping = compute_mined_mapping(teacher_tok, student_tok, args.workers, sys.stderr.isatty())
    save_mined_mapping(args.output, mapping, teacher_tok, student_tok)
    print(f"{args.output}: {len(student_tok):,} tokens onto {len(teacher_tok):,}")
    numbers = np.bincount(mapping.distances[mapping.distances >= 0])
    for distance, number in enumerate(numbers[:5]):
        print(f"  distance {distance:<3}{number:>9,}")
    print(f"  more        {numbers[5:].sum():>9,}")
