"""One sampled tokenizer on one core: substring statistics, pieces, Unigram model, surface forms.

    python benchmarks/tokenizer_sampling.py [--quick] [--hypernet SPEC]

2,048 texts of 2,048 characters give a tokenizer of 32,768 tokens; the last line is JSON:
``seconds`` is the median over draws of all four stages together.
"""

from __future__ import annotations

import os

os.environ.update(RAYON_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false", OMP_NUM_THREADS="1")
os.environ["HF_HUB_OFFLINE"] = "1"

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.common import hardware, library_text, train_bpe  # noqa: E402
from tokenkit.tokenizers import (  # noqa: E402
    ByteifiedTokenizer,
    SamplerSettings,
    count_pretokens,
    load_tokenizer,
    sample_tokenizer,
    surface_forms,
)

TEXTS, CHARACTERS = 2048, 2048
STAGES = ("pre-tokens", "tokenizer", "surface forms")


def draw(texts: list[str], tok: ByteifiedTokenizer, seed: int) -> tuple[list[float], int]:
    """Seconds of each stage and the size of the vocabulary drawn."""
    marks = [time.perf_counter()]
    counts = count_pretokens(texts)
    marks.append(time.perf_counter())
    rng = np.random.default_rng(seed)
    sampled = sample_tokenizer(counts, SamplerSettings(), tok.family, rng)
    marks.append(time.perf_counter())
    surface_forms(sampled.tok.tokens, tok, 7)
    marks.append(time.perf_counter())
    return [b - a for a, b in zip(marks, marks[1:], strict=False)], len(sampled.tok)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a smaller hypernet tokenizer")
    parser.add_argument("--hypernet", help="spec of the hypernetwork's tokenizer")
    args = parser.parse_args()
    text = library_text(32_000_000)
    starts = np.random.default_rng(0).integers(0, len(text) - CHARACTERS, TEXTS)
    texts = [text[s : s + CHARACTERS] for s in starts]
    with tempfile.TemporaryDirectory() as folder:
        spec = args.hypernet
        if not spec:
            size = 8192 if args.quick else 32_768
            spec = train_bpe(Path(folder), text[:8_000_000], size) + ":source=Llama3"
        tok = load_tokenizer(spec)
    print(f"{hardware(1)}; {len(set(count_pretokens(texts))):,} different pre-tokens")
    draws = [draw(texts, tok, seed) for seed in range(3 if args.quick else 7)]
    for k, stage in enumerate(STAGES):
        print(f"{stage:<16}{statistics.median(times[k] for times, _ in draws):>8.3f} s")
    seconds = statistics.median(sum(times) for times, _ in draws)
    size = min(size for _, size in draws)
    print(f"{'all':<16}{seconds:>8.3f} s for {size:,} tokens")
    print(json.dumps({"seconds": round(seconds, 3), "tokens": size, "hardware": hardware(1)}))


if __name__ == "__main__":
    main()
