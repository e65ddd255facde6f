"""The MinED mapping between two large vocabularies, on one core.

    python benchmarks/mined.py [--quick] [--teacher SPEC --student SPEC]

Without specs, two tokenizers of 131,072 and 151,552 tokens are trained (32,768 each with
``--quick``). The last line is JSON: ``seconds``, ``exact`` (tokens both have) and ``searched``.
"""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.common import QWEN_WORDS, hardware, library_text, train_bpe  # noqa: E402
from tokenkit.tokenizers import load_tokenizer  # noqa: E402
from tokenkit.tokenizers.pairs.mined import compute_mined_mapping  # noqa: E402


def train_pair(folder: Path, quick: bool) -> tuple[str, str]:
    text = library_text(6_000_000 if quick else 40_000_000)
    half = len(text) // 2
    sizes = (32_768, 32_768) if quick else (131_072, 151_552)
    a = train_bpe(folder / "a", text[:half], sizes[0])
    b = train_bpe(folder / "b", text[half:], sizes[1], QWEN_WORDS)
    return f"{a}:source=GPT2", f"{b}:source=GPT2"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small vocabularies")
    parser.add_argument("--teacher", help="tokenizer spec")
    parser.add_argument("--student", help="tokenizer spec")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        given = args.teacher and args.student
        pair = (args.teacher, args.student) if given else train_pair(Path(folder), args.quick)
        teacher_tok, student_tok = (load_tokenizer(spec) for spec in pair)
    begin = time.perf_counter()
    mapping = compute_mined_mapping(teacher_tok, student_tok)
    seconds = time.perf_counter() - begin
    exact = int(np.count_nonzero(mapping.distances == 0))
    searched = int(np.count_nonzero(mapping.distances > 0))
    print(
        f"{hardware(1)}: {len(student_tok):,} tokens onto {len(teacher_tok):,} in {seconds:.1f} s"
    )
    print(f"{exact:,} tokens are in both vocabularies, {searched:,} were searched")
    result = {"seconds": round(seconds, 2), "exact": exact, "searched": searched}
    print(json.dumps(result | {"hardware": hardware(1)}))


if __name__ == "__main__":
    main()
