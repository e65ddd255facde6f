"""Statistics of a pair of tokenizers, for the loss alm_unbiased.

    tokenkit compute-tokenizer-info --teacher T --student S --data text.jsonl --output F

Counts on a corpus how often each token is used, and computes from this how biased a comparison is
after each pair of tokens. Writes into the folder, which is for ``alm.pair_bias``:

    bias1_matrix.npz, bias2_matrix.npz      scipy sparse matrices [V_teacher, V_student]
    teacher_counts.json, student_counts.json    how often each token id occurs
    info.json                               the arguments, and totals

Stopped while counting, it goes on from the shards in F.partial when started with the same
arguments.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tokenkit.cli.arguments import WORKERS, CommandParser, at_least, not_negative, said_of
from tokenkit.io import new_folder, refuse_existing
from tokenkit.log import init_logger, logger

if TYPE_CHECKING:
    from tokenkit.data.token_counts import TokenCounts
    from tokenkit.tokenizers import PairBias

SIDES = ("teacher", "student")
WHITESPACE = {"biased": 1.0, "exact": None}


def parse_arguments() -> argparse.Namespace:
    parser = CommandParser(__doc__)
    add = parser.add_argument
    add("--teacher", required=True, help="tokenizer spec of the teacher")
    add("--student", required=True, help="tokenizer spec of the student")
    add("--data", nargs="+", required=True, help="files, folders, patterns or hf:name[:config]")
    add("--output", type=Path, required=True, help="a new folder")
    add("--split", default="train", help="of hf: data; a part as in 'train[:100000]'")
    add("--text-field", default="text", help="field of a row that holds the text")
    add("--messages-field", default="messages", help="field of a row that holds a conversation")
    add("--workers", type=at_least(1, WORKERS), default=1, help="processes that count")
    add("--shard-rows", type=at_least(1), default=1000, help="rows counted at a time")
    add(
        "--additive", type=not_negative, default=1e-9,
        help="added to each share of the total count",
    )  # fmt: skip
    add(
        "--whitespace", choices=WHITESPACE, default="biased",
        help="pairs with a token of mere whitespace get bias 1, or the exact one",
    )  # fmt: skip
    return parser.parse_args()


def write_json(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n")


def save(folder: Path, args: argparse.Namespace, counts: TokenCounts, bias: PairBias) -> None:
    """Write all files but keep those of a former attempt out of them."""
    import numpy as np

    from tokenkit.tokenizers.pairs.statistics import save_pair_bias

    save_pair_bias(bias, folder)
    for side, of_side in zip(SIDES, counts.tokens, strict=True):
        used = np.flatnonzero(of_side).tolist()
        write_json(folder / f"{side}_counts.json", {str(i): int(of_side[i]) for i in used})
    info = {key: value for key, value in vars(args).items() if key not in ("output", "workers")}
    totals = {f"{s}_tokens": int(c.sum()) for s, c in zip(SIDES, counts.tokens, strict=True)}
    info |= {"texts": counts.texts, "bytes": counts.size, **totals, "pairs": bias.bias1.nnz}
    write_json(folder / "info.json", info)


def main() -> None:
    args = parse_arguments()
    init_logger()
    refuse_existing(args.output, "--output", "folder")

    from tokenkit.data.read_row import RowFormat
    from tokenkit.data.token_counts import Corpus, count_corpus
    from tokenkit.tokenizers import load_tokenizer
    from tokenkit.tokenizers.pairs.statistics import pair_bias, unigram_probabilities

    toks = []
    for side in SIDES:
        with said_of(f"--{side}"):
            toks.append(load_tokenizer(getattr(args, side)))
    row_format = RowFormat(args.text_field, args.messages_field)
    corpus = Corpus(tuple(args.data), args.split, row_format)
    with said_of("--data"):
        corpus.open()  # before a folder is made
    with new_folder(args.output, resume=True) as partial:
        shards = partial / "shards"
        shown = sys.stderr.isatty()
        counts = count_corpus(toks, corpus, shards, args.workers, args.shard_rows, progress=shown)
        teacher, student = (
            unigram_probabilities(tok, of_side, args.additive)
            for tok, of_side in zip(toks, counts.tokens, strict=True)
        )
        blank_bias = WHITESPACE[args.whitespace]
        bias = pair_bias(toks[0], toks[1], teacher, student, blank_bias=blank_bias, progress=shown)
        save(partial, args, counts, bias)
        shutil.rmtree(shards)
    logger.info(
        f"{counts.texts:,} texts, {counts.size:,} bytes: {bias.bias1.nnz:,} pairs in {args.output}"
    )
