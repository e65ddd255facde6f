"""Show how two tokenizers cut a text, aligned, and compare their vocabularies.

    tokenkit inspect-tokenizers gpt2:source=GPT2 Qwen/Qwen2.5-1.5B:source=Qwen2 \\
        --text "Hello world"

The same chunk has the same colour on both sides; without colours (output that is no terminal, or
NO_COLOR is set) chunks stand in brackets. Tokens that have no counterpart are red, or in braces.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from pathlib import Path

from tokenkit.cli.arguments import CommandParser
from tokenkit.errors import DataError


def parse_arguments() -> argparse.Namespace:
    parser = CommandParser(__doc__)
    parser.add_argument("first", help="tokenizer spec A")
    parser.add_argument("second", help="tokenizer spec B")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--text", help="the text; neutral markers like <|<bos>|> may be in it")
    source.add_argument("--file", type=Path, help="a UTF-8 file with the text")
    parser.add_argument("--chunks", choices=("unconstrained", "space"), default="unconstrained")
    parser.add_argument("--color", choices=("auto", "always", "never"), default="auto")
    return parser.parse_args()


def read_text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"--file {path}: not readable as UTF-8 text ({error})") from error


def main() -> None:
    args = parse_arguments()
    text = args.text if args.file is None else read_text(args.file)
    if not text:
        raise DataError(f"{'--text' if args.file is None else f'--file {args.file}'}: no text")
    colour = args.color == "always" or (
        args.color == "auto" and sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    )

    from tokenkit.tokenizers import load_tokenizer
    from tokenkit.tokenizers.inspect import compare, report

    first, second = (load_tokenizer(spec) for spec in (args.first, args.second))
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8")
    print(report(compare(first, second, text, args.chunks), colour))
