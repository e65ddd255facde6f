"""Give a model another tokenizer without training (zero-shot tokenizer transfer).

    tokenkit zett --model M --tokenizer M:source=Llama3 \\
        --target T:source=Qwen2:target=Llama3 --output folder

Only the vocabulary changes: each new token's rows are made from the old ones by ``--method``.
``--method hypernet --checkpoint run`` lets a trained hypernetwork predict them, and takes the
model from the run. ``--method all --text file`` writes nothing: it shows bits per byte of all.
Without ``--target``, the model's own tokenizer is pruned (``--keep-tokens`` or ``--keep-top``)
and extended (``--add-tokens``); with it, the target is.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenkit.cli.arguments import SEED, CommandParser, at_least, said_of
from tokenkit.errors import ConfigError
from tokenkit.io import refuse_existing
from tokenkit.log import init_logger
from tokenkit.transfer.registry import BUILT_IN

if TYPE_CHECKING:
    import torch

    from tokenkit.tokenizers import ByteifiedTokenizer

METHODS = tuple(sorted(BUILT_IN))
SLOW = ("focus", "omp")  # minutes on a CPU, with 256K tokens: they look at all pairs of tokens
QUICK = tuple(name for name in METHODS if name not in SLOW)
HYPERNET, ALL = "hypernet", "all"


def parse_arguments() -> argparse.Namespace:
    parser = CommandParser(__doc__)
    parser.add_argument("--model", help="hub id or local folder")
    parser.add_argument("--tokenizer", help="spec of the model's own tokenizer")
    parser.add_argument("--target", help="spec of the tokenizer to move to (default: its own)")
    parser.add_argument("--output", type=Path, help="folder to write (new)")
    parser.add_argument(
        "--method", default="fvt", help=f"{', '.join(METHODS)}, {HYPERNET} or {ALL} (to compare)"
    )
    parser.add_argument(
        "--seed", type=at_least(0, SEED), default=1234, help="for rows that must be drawn"
    )
    parser.add_device()
    parser.add_argument(
        "--text", nargs="+", help="files: bits per byte before and after, and for --keep-top"
    )
    parser.add_argument("--max-documents", type=at_least(1), default=256, help="for bits per byte")
    tokens = parser.add_argument_group("vocabulary")
    tokens.add_argument(
        "--keep-tokens", type=Path, help="list of vocabulary entries to keep (.json, or lines)"
    )
    tokens.add_argument(
        "--keep-top", type=at_least(1), help="keep this many most frequent in --text"
    )
    tokens.add_argument(
        "--add-tokens", type=Path, help="list of tokens to add, as they stand in text"
    )
    trained = parser.add_argument_group("method hypernet")
    trained.add_argument(
        "--checkpoint", type=Path, help="output directory of the run that trained the hypernetwork"
    )
    trained.add_argument(
        "--step", type=at_least(-1), default=-1, help="its checkpoint (-1: the latest)"
    )
    omp = parser.add_argument_group("method omp")
    omp.add_argument("--donor", help="tokenizer spec of a model folder with the target's tokenizer")
    omp.add_argument("--omp-k", type=at_least(1), default=64, help="shared tokens per new one")
    omp.add_argument(
        "--omp-candidates",
        type=at_least(0),
        default=512,
        help="nearest to choose them from; 0: all",
    )
    return parser.parse_args()


def check(args: argparse.Namespace) -> None:
    """Refuse combinations that cannot work."""
    edits = args.keep_tokens or args.keep_top is not None or args.add_tokens
    if not (args.target or edits):
        raise ConfigError("nothing to do: give --target, --keep-tokens, --keep-top or --add-tokens")
    if args.keep_top is not None and not args.text:
        raise ConfigError("--keep-top counts tokens, so it needs --text")
    if 0 < args.omp_candidates < args.omp_k:
        raise ConfigError(
            f"--omp-candidates {args.omp_candidates} is less than --omp-k {args.omp_k}: give at "
            "least as many, or 0 for all"
        )
    if args.donor and args.method not in ("omp", ALL):
        raise ConfigError(f"--donor is of --method omp, not {args.method}")
    if args.method == ALL and not args.text:
        raise ConfigError("--method all compares on --text: give it files")
    if (args.method == ALL) != (args.output is None):
        raise ConfigError(
            "--output is missing" if args.output is None else
            "--method all writes nothing: leave out --output, or choose one method"
        )  # fmt: skip
    if args.output is not None:
        refuse_existing(args.output, "--output", "folder")
    if (args.method == HYPERNET) != (args.checkpoint is not None):
        raise ConfigError(f"--checkpoint goes with --method {HYPERNET}, not {args.method}")
    if args.method == HYPERNET:
        for name in ("model", "tokenizer"):
            if getattr(args, name):
                raise ConfigError(f"--{name} is that of --checkpoint: leave it out")

        from tokenkit.training.restore import load_run_config

        with said_of("--checkpoint"):
            settings = load_run_config(args.checkpoint).student
        args.tokenizer = settings.tokenizer
        if settings.init == "pretrained":
            args.model = settings.model
        return
    for name in ("model", "tokenizer"):
        if not getattr(args, name):
            raise ConfigError(f"--{name} is missing")

    if args.method == ALL:
        return

    from tokenkit.transfer import INITIALIZERS

    with said_of("--method"):
        INITIALIZERS.get(args.method)


def target_of(args: argparse.Namespace, source: ByteifiedTokenizer) -> ByteifiedTokenizer:
    """The tokenizer to move to, pruned, then extended."""
    from tokenkit.evaluation.folder import read_texts
    from tokenkit.tokenizers import extend, load_tokenizer, prune
    from tokenkit.tokenizers.editing.prune import ids_of_entries, most_frequent
    from tokenkit.tokenizers.editing.token_list import read_token_list

    with said_of("--target"):
        tok = load_tokenizer(args.target, like=source) if args.target else source
    keep = []
    if args.keep_tokens:
        with said_of("--keep-tokens"):
            keep += ids_of_entries(tok, read_token_list(args.keep_tokens))
    if args.keep_top is not None:
        texts = read_texts(args.text, option="--text")
        keep += most_frequent(tok, texts, args.keep_top)
    if keep:
        before, tok = tok, prune(tok, keep)
        print(pruned(before, tok, keep, args.keep_top))
    with said_of("--add-tokens"):
        return extend(tok, read_token_list(args.add_tokens)) if args.add_tokens else tok


def pruned(
    before: ByteifiedTokenizer, after: ByteifiedTokenizer, keep: list[int], top: int | None
) -> str:
    """What became of a vocabulary, in a line: why there are more tokens than were asked for."""
    asked = len(set(keep))
    names = set(after.hf.get_vocab())
    gone = sum(before.hf.convert_ids_to_tokens(i) not in names for i in set(keep))
    fewer = ""
    if top is not None and asked < top:
        fewer = f" (--text has no more than {asked:,} of the {top:,})"
    more = len(after) - asked + gone
    lost = f", {gone:,} dropped that merges never build" if gone else ""
    return (
        f"{len(before):,} tokens pruned to {len(after):,}: {asked:,} asked for{fewer}{lost}, "
        f"{more:,} more that bytes, special tokens, chats and merges need"
    )


def compare(
    args: argparse.Namespace,
    source_tok: ByteifiedTokenizer,
    target_tok: ByteifiedTokenizer,
    texts: list[str],
    device: torch.device,
) -> None:
    """Print bits per byte of the model itself and by each method."""
    from tokenkit.export.methods import compare_methods

    args.method = "omp"
    options = options_of(args, device)
    methods = {name: options if name == "omp" else {} for name in (*QUICK, *SLOW)}
    found = compare_methods(
        args.model, source_tok, target_tok, texts, methods, seed=args.seed, device=device
    )
    title = f"bits per byte ({len(texts)} documents, {len(target_tok):,} tokens; lower is better)"
    print(title, flush=True)
    for name, value in found:
        print(f"  {name:<20} {value:.4f}", flush=True)


def options_of(args: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Options of the method."""
    if args.method != "omp":
        return {}

    from tokenkit.export.zero_shot import open_donor

    donor = open_donor(args.donor, device) if args.donor else None
    return {"k": args.omp_k, "candidates": args.omp_candidates, "donor": donor}


def transferred(
    args: argparse.Namespace,
    source_tok: ByteifiedTokenizer,
    target_tok: ByteifiedTokenizer,
    device: torch.device,
) -> dict[str, int]:
    """Write the model; how many tokens got their rows in which way."""
    if args.method == HYPERNET:
        from tokenkit.export.apply_hypernet import apply_hypernet

        return apply_hypernet(args.checkpoint, target_tok, args.output, args.step)

    from tokenkit.export.zero_shot import transfer_model

    return transfer_model(
        args.model, source_tok, target_tok, args.output,
        method=args.method, seed=args.seed, device=device, **options_of(args, device),
    )  # fmt: skip


def main() -> None:
    args = parse_arguments()
    init_logger()
    check(args)

    from tokenkit.evaluation.device import usable_device
    from tokenkit.evaluation.folder import folder_bits_per_byte, read_texts
    from tokenkit.models.weights import resolve_model_folder
    from tokenkit.tokenizers import load_tokenizer, warn_of_missing_bos

    device = usable_device(args.device)
    if args.model:
        with said_of("--model"):
            resolve_model_folder(args.model)
    with said_of("--tokenizer"):
        source_tok = load_tokenizer(args.tokenizer)
    target_tok = target_of(args, source_tok)
    warn_of_missing_bos(source_tok, target_tok)
    texts = read_texts(args.text, args.max_documents, option="--text") if args.text else []
    if args.method == ALL:
        compare(args, source_tok, target_tok, texts, device)
        return
    report = transferred(args, source_tok, target_tok, device)
    print(f"{args.output}: {len(target_tok):,} tokens by {args.method}")
    for kind, count in report.items():
        print(f"  {kind:<10} {count:>9,}")
    if texts:
        known = {"before": (args.model, source_tok), "after": (args.output, target_tok)}
        values = [
            f"{folder_bits_per_byte(str(folder), tok, texts, device=device):.6f} {name}"
            for name, (folder, tok) in known.items()
            if folder
        ]
        print(f"bits per byte: {', '.join(values)} ({len(texts)} documents)")
