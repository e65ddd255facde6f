"""Give a model another tokenizer without training (zero-shot tokenizer transfer).

    python scripts/zett.py --model M --tokenizer M:source=Llama3 \\
        --target T:source=Qwen2:target=Llama3 --output folder

Only the vocabulary changes: each new token's rows are made from the old ones by ``--method``.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tokenkit.errors import run_main
from tokenkit.log import init_logger
from tokenkit.models.causal_lm import open_source_model
from tokenkit.models.hf_export import check_output_folder, save_hf_folder
from tokenkit.models.weights import backbone_tensors
from tokenkit.tokenizers import load_tokenizer, warn_of_missing_bos
from tokenkit.transfer import INITIALIZERS


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="hub id or local folder")
    parser.add_argument("--tokenizer", required=True, help="spec of the model's own tokenizer")
    parser.add_argument("--target", required=True, help="spec of the tokenizer to move to")
    parser.add_argument("--output", type=Path, required=True, help="folder to write (new)")
    parser.add_argument(
        "--method", default="fvt", help=f"initialiser: {', '.join(INITIALIZERS.names())}"
    )
    parser.add_argument("--seed", type=int, default=1234, help="for rows that must be drawn")
    args = parser.parse_args()
    init_logger()
    check_output_folder(args.output)
    initialize = INITIALIZERS.get(args.method)
    source_tok, target_tok = load_tokenizer(args.tokenizer), load_tokenizer(args.target)
    warn_of_missing_bos(source_tok, target_tok)
    source = open_source_model(args.model)
    inputs, outputs = source.matrices()
    known = [matrix for matrix in (inputs, outputs) if matrix is not None]
    made, report = initialize(source_tok, target_tok, known, seed=args.seed)
    backbone = backbone_tensors(source.weights, source.family.prefix, source.family.embedding)
    new_outputs = None if outputs is None else made[1]
    save_hf_folder(source, backbone, made[0], new_outputs, target_tok, args.output)
    print(f"{args.output}: {len(target_tok):,} tokens by {args.method}")
    for kind, count in report.items():
        print(f"  {kind:<10} {count:>9,}")


if __name__ == "__main__":
    run_main(main)
