"""Alignment beside tokenization, on one core: what a data worker spends on each.

    python benchmarks/alignment.py [--quick] [--teacher SPEC --student SPEC]

Batches of 16 rows of T teacher tokens of real text are tokenized by both tokenizers and aligned.
Without specs, two byte-level tokenizers (32,768 and 49,152 tokens) are trained first, and bytes
are a third target. The last line is JSON about the first pair: ``align_over_tokenize`` (the worst
of both T), ``tokens_per_second`` (teacher tokens aligned; the worst) and ``bytes``, the peak
memory of aligning one batch by T.
"""

from __future__ import annotations

import os

# One core, as in a data worker; to be set before tokenizers starts its threads.
os.environ.update(RAYON_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1")

import argparse
import json
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.common import QWEN_WORDS, hardware, library_text, train_bpe  # noqa: E402
from tokenkit.tokenizers import ByteifiedTokenizer, align, load_tokenizer  # noqa: E402

ROWS = 16
KINDS = ("unconstrained", "space")


def train_pair(folder: Path, quick: bool) -> list[tuple[str, str]]:
    """Specs of pairs to compare."""
    text = library_text(6_000_000 if quick else 16_000_000)
    half = len(text) // 2
    a = train_bpe(folder / "a", text[:half], 32_768)
    b = train_bpe(folder / "b", text[half:], 49_152, QWEN_WORDS)
    pairs = [(f"{a}:source=Llama3", f"{b}:source=Qwen2")]
    return [*pairs, (pairs[0][0], f"{a}:source=Llama3:conversion=byte")]


def rows_of(tok: ByteifiedTokenizer, text: str, length: int) -> list[str]:
    """Texts of ``length`` tokens each, BOS in front."""
    ids = tok.encode(text[: ROWS * length * 8])
    rows = [tok.decode(ids[r * length : (r + 1) * length - 1]) for r in range(ROWS)]
    return [f"<|<bos>|>{row}" for row in rows]


def padded(rows: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    lengths = np.array([len(row) for row in rows])
    mask = np.arange(lengths.max()) < lengths[:, None]
    ids = np.zeros(mask.shape, np.int64)
    ids[mask] = np.concatenate(rows)
    return ids, mask


def seconds(work: Callable[[], object], repeats: int) -> float:
    """The fastest of several runs: what the work itself takes."""
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return min(times)


def measure(pair: tuple[str, str], text: str, length: int, repeats: int) -> dict:
    """One pair at one T."""
    toks = [load_tokenizer(spec) for spec in pair]
    texts = rows_of(toks[0], text, length)
    (t_ids, t_mask), (s_ids, s_mask) = (padded(tok.encode_batch(texts)) for tok in toks)

    def run(kinds: tuple[str, ...]):
        return align(*toks, t_ids, s_ids, t_mask, s_mask, kinds)

    run(KINDS)  # builds the tables of both vocabularies
    tokenize = sum(seconds(lambda tok=tok: tok.encode_batch(texts), repeats) for tok in toks)
    times = {kind: seconds(lambda kind=kind: run((kind,)), repeats) for kind in KINDS}
    tracemalloc.start()
    stats = run(("unconstrained",)).stats
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    tokens = stats["teacher_tokens"]
    return {
        "aligned": stats["teacher_aligned"] / tokens,
        "tokenize": tokenize,
        "ratio": {kind: t / tokenize for kind, t in times.items()},
        "speed": {kind: tokens / t for kind, t in times.items()},
        "bytes": peak,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="less training text, fewer runs")
    parser.add_argument("--teacher", help="tokenizer spec")
    parser.add_argument("--student", help="tokenizer spec")
    args = parser.parse_args()
    repeats = 3 if args.quick else 10
    text = library_text(2_000_000)
    print(hardware(1))
    print(f"{'pair':<22}{'T':>6}{'aligned':>9}{'tokenize ms':>13}", end="")
    print("".join(f"{kind + ' M/s':>20}{'ratio':>8}" for kind in KINDS), f"{'peak KiB':>10}")
    first: dict[int, dict] = {}
    with tempfile.TemporaryDirectory() as folder:
        given = args.teacher and args.student
        pairs = [(args.teacher, args.student)] if given else train_pair(Path(folder), args.quick)
        for number, pair in enumerate(pairs):
            for length in (512, 2048, 8192):
                found = measure(pair, text, length, repeats)
                if number == 0:
                    first[length] = found
                name = " -> ".join(Path(spec.split(":")[0]).name for spec in pair)
                name += " bytes" if "conversion=byte" in pair[1] else ""
                print(f"{name:<22}{length:>6}{found['aligned']:>9.1%}", end="")
                print(f"{found['tokenize'] * 1e3:>13.1f}", end="")
                for kind in KINDS:
                    print(
                        f"{found['speed'][kind] / 1e6:>20.2f}{found['ratio'][kind]:>8.1%}", end=""
                    )
                print(f"{found['bytes'] / 1024:>11.0f}")
    kind = "unconstrained"
    result = {
        "align_over_tokenize": round(max(first[t]["ratio"][kind] for t in (512, 2048)), 4),
        "tokens_per_second": round(min(first[t]["speed"][kind] for t in (512, 2048))),
        "bytes": {str(t): found["bytes"] for t, found in first.items()},
        "hardware": hardware(1),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
