"""Input-id expansion of a byte-level tokenizer: the longest subword at each of a million bytes.

    python benchmarks/expansion.py [--quick] [--tokenizer SPEC]

Without a spec, a tokenizer of 32,768 tokens is trained. The last line is JSON: ``seconds`` and
``tokens_per_second`` for expanding, ``build_seconds`` for the trie.
"""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.common import hardware, library_text, train_bpe  # noqa: E402
from tokenkit.tokenizers import InputExpander, load_tokenizer  # noqa: E402

TOKENS, ROW = 1_000_000, 2000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="less training text, fewer runs")
    parser.add_argument("--tokenizer", help="spec of the subword tokenizer")
    args = parser.parse_args()
    text = library_text(2_000_000 if args.quick else 8_000_000)
    with tempfile.TemporaryDirectory() as folder:
        spec = args.tokenizer or train_bpe(Path(folder), text, 32_768) + ":source=Llama3"
        subword, byte = load_tokenizer(spec), load_tokenizer(f"{spec}:conversion=byte")
    begin = time.perf_counter()
    expander = InputExpander(byte, subword)
    built = time.perf_counter() - begin
    ids = byte.encode(text[: TOKENS + 100_000])[:TOKENS].reshape(-1, ROW)
    seconds = []
    for _ in range(3 if args.quick else 7):
        begin = time.perf_counter()
        expander.expand(ids)
        seconds.append(time.perf_counter() - begin)
    took = statistics.median(seconds)
    print(f"{hardware(1)}: {len(subword):,} subwords, trie built in {built:.2f} s")
    print(f"{ids.size:,} byte tokens in {took:.3f} s")
    result = {"seconds": round(took, 3), "tokens_per_second": round(ids.size / took)}
    print(json.dumps(result | {"build_seconds": round(built, 2), "hardware": hardware(1)}))


if __name__ == "__main__":
    main()
