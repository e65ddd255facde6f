"""Bits per byte of a Hugging Face model folder on text; lower is better.

    tokenkit eval-bpb --model folder --tokenizer folder:source=Qwen2 --data held_out.jsonl

Comparable between models with different tokenizers, because bytes are the same for all.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from tokenkit.cli.arguments import CommandParser, at_least, said_of
from tokenkit.io import check_place


def parse_arguments() -> argparse.Namespace:
    parser = CommandParser(__doc__)
    parser.add_argument("--model", required=True, help="hub id or local folder")
    parser.add_argument("--tokenizer", required=True, help="tokenizer spec of the model")
    parser.add_argument("--data", nargs="+", required=True, help="files, folders or hf:name")
    parser.add_argument("--max-documents", type=at_least(1), default=256, help="documents to read")
    parser.add_argument(
        "--beside", nargs="+", default=[], metavar="SPEC",
        help="tokenizers of other models to compare with: what one cannot write is left out",
    )  # fmt: skip
    parser.add_argument("--max-bytes", type=at_least(16), default=2048, help="bytes a window")
    parser.add_argument("--batch-size", type=at_least(1), default=8, help="windows a forward pass")
    parser.add_argument("--text-field", default="text", help="field of a row that holds the text")
    parser.add_device()
    parser.add_argument("--json", type=Path, help="write the result to this file too")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    if args.json:
        check_place(args.json, "--json", "file")

    from tokenkit.evaluation.bits_per_byte import writable_texts
    from tokenkit.evaluation.device import usable_device
    from tokenkit.evaluation.folder import folder_bits_per_byte, read_texts
    from tokenkit.models.weights import resolve_model_folder
    from tokenkit.tokenizers import load_tokenizer

    with said_of("--device"):
        device = usable_device(args.device)
    with said_of("--model"):
        folder = resolve_model_folder(args.model)
    toks = []
    for option, spec in (("--tokenizer", args.tokenizer), *(("--beside", s) for s in args.beside)):
        with said_of(option):
            toks.append(load_tokenizer(spec))
    texts = read_texts(args.data, args.max_documents, args.text_field)
    texts = writable_texts(toks, texts)
    result = folder_bits_per_byte(
        str(folder), toks[0], texts, max_bytes=args.max_bytes, batch_size=args.batch_size,
        device=device,
    )  # fmt: skip
    size = sum(len(text.encode("utf-8")) for text in texts)
    print(f"{result:.4f} bits per byte ({len(texts)} documents, {size:,} bytes)")
    if args.json:
        report = {"bits_per_byte": result, "documents": len(texts), "bytes": size}
        args.json.write_text(json.dumps(report) + "\n")
