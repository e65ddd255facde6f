"""Alignment beside tokenization, on one core: what a data worker spends on each.

    python benchmarks/alignment.py [--quick] [--teacher SPEC --student SPEC]

Batches of 16 documents, and of 16 conversations, of about T teacher tokens of real text are read
by both tokenizers. ``tokenize`` is the two backends' own encoding of what is written. ``render`` is
the two chat templates, run once a chat. ``align`` is all else between rows and aligned chunks:
ids as arrays, where tokens and contents stand, loss masks (``loss_on = "assistant"``), chunks.

Without specs, real tokenizers with their own templates are taken from the folder in
TOKENKIT_TOKENIZERS (llama3, qwen2_5, mistral_nemo). Without that, two byte-level tokenizers (32,768
and 49,152 tokens) are trained first, with the templates of Llama3 and Qwen2, and bytes are a third
target. The last line is JSON about the first pair: ``align_over_tokenize``,
``chat_align_over_tokenize`` and ``chat_render_over_tokenize`` (the worst of T = 512 and 2048; by T
in ``chat_align_by_length``), ``tokens_per_second`` (teacher tokens of documents aligned; the worst)
and ``bytes``, the peak memory of aligning one batch of documents by T.
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
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.common import QWEN_WORDS, hardware, library_text, train_bpe  # noqa: E402
from tokenkit.tokenizers import (  # noqa: E402
    Alignment,
    ByteifiedTokenizer,
    Conversation,
    Document,
    Reading,
    Row,
    align_rows,
    encode_rows,
    load_tokenizer,
)
from tokenkit.tokenizers.arrays import as_array  # noqa: E402

ROWS = 16
TURNS = ("system", "user", "assistant", "user", "assistant")
SHARES = (0.05, 0.15, 0.35, 0.1, 0.35)  # of a conversation's text
KINDS = ("unconstrained", "space")
SHAPES = ("documents", "chats")
READING = Reading("assistant")
REAL_PAIRS = (("llama3", "qwen2_5"), ("qwen2_5", "mistral_nemo"))


def train_pairs(folder: Path, quick: bool) -> list[tuple[str, str]]:
    """Specs of pairs to compare."""
    text = library_text(6_000_000 if quick else 16_000_000)
    half = len(text) // 2
    a = train_bpe(folder / "a", text[:half], 32_768)
    b = train_bpe(folder / "b", text[half:], 49_152, QWEN_WORDS)
    pairs = [(f"{a}:source=Llama3", f"{b}:source=Qwen2")]
    return [*pairs, (pairs[0][0], f"{a}:source=Llama3:conversion=byte")]


def pairs_for(args: argparse.Namespace, folder: Path) -> list[tuple[str, str]]:
    if args.teacher and args.student:
        return [(args.teacher, args.student)]
    if real := os.environ.get("TOKENKIT_TOKENIZERS"):
        return [(f"{real}/{teacher}", f"{real}/{student}") for teacher, student in REAL_PAIRS]
    return train_pairs(folder, args.quick)


def rows_of(tok: ByteifiedTokenizer, text: str, length: int, shape: str) -> list[Row]:
    """Documents or conversations of ``length`` tokens of text each."""
    ids = tok.encode_text(text[: ROWS * length * 8])
    texts = [tok.decode(ids[r * length : (r + 1) * length]) for r in range(ROWS)]
    return [Document(text) if shape == "documents" else conversation(text) for text in texts]


def conversation(text: str) -> Conversation:
    """A text as turns. Users leave blanks where it was cut, as users do."""
    cuts = [int(len(text) * share) for share in np.cumsum([0, *SHARES])]
    contents = [text[a:b] for a, b in zip(cuts, cuts[1:], strict=False)]
    return Conversation(
        [
            {"role": role, "content": content if role == "user" else content.strip()}
            for role, content in zip(TURNS, contents, strict=True)
        ]
    )


def seconds(work: Callable[[], object], repeats: int) -> float:
    """The fastest of several runs: what the work itself takes."""
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return min(times)


def written(tok: ByteifiedTokenizer, rows: Sequence[Row]) -> list[str]:
    """What the tokenizer encodes of the rows."""
    return [r.text if isinstance(r, Document) else tok.chat.render(r)[0] for r in rows]


def plain_ids(tok: ByteifiedTokenizer, texts: Sequence[str]) -> list[list[int]]:
    """What the backend makes of the texts, without anything of tokenkit."""
    backend = tok.hf.backend_tokenizer
    return [found.ids for found in backend.encode_batch_fast(texts, add_special_tokens=False)]


@contextmanager
def encoded_already(tok: ByteifiedTokenizer, texts: Sequence[str]) -> Iterator[None]:
    """Within, these texts cost no encoding, so that what else is done can be timed by itself."""
    known = dict(zip(texts, plain_ids(tok, texts), strict=True))

    def recall(texts: Sequence[str], as_text: bool = False) -> list[np.ndarray]:
        return [as_array(known[text]) for text in texts]

    tok.encode_texts = recall
    try:
        yield
    finally:
        del tok.encode_texts


def measure(toks: list[ByteifiedTokenizer], rows: list[Row], repeats: int) -> dict:
    """One pair and one batch; times in seconds, and over the time to tokenize."""
    texts = [written(tok, rows) for tok in toks]
    chats = [row for row in rows if isinstance(row, Conversation)]

    def run(kind: str) -> Alignment:
        return align_rows(*toks, *(encode_rows(tok, rows, READING) for tok in toks), (kind,))

    tokenizing, rendering = 0.0, 0.0
    for tok, mine in zip(toks, texts, strict=True):
        tokenizing += seconds(lambda tok=tok, mine=mine: plain_ids(tok, mine), repeats)
        rendering += seconds(lambda tok=tok: written(tok, chats), repeats)
    with encoded_already(toks[0], texts[0]), encoded_already(toks[1], texts[1]):
        run(KINDS[0])  # builds the tables of both vocabularies
        times = {kind: seconds(lambda k=kind: run(k), repeats) - rendering for kind in KINDS}
        tracemalloc.start()
        stats = run(KINDS[0]).stats
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    tokens = stats["teacher_tokens"]
    return {
        "aligned": stats["teacher_aligned"] / tokens,
        "tokenize": tokenizing,
        "render": rendering / tokenizing,
        "ratio": {kind: t / tokenizing for kind, t in times.items()},
        "speed": {kind: tokens / t for kind, t in times.items()},
        "bytes": peak,
    }


def show_header() -> None:
    print(f"{'pair':<24}{'rows':<10}{'T':>6}{'aligned':>9}{'tokenize ms':>13}{'render':>8}", end="")
    print("".join(f"{kind + ' M/s':>20}{'ratio':>8}" for kind in KINDS), f"{'peak KiB':>10}")


def show(name: str, shape: str, length: int, found: dict) -> None:
    print(f"{name:<24}{shape:<10}{length:>6}{found['aligned']:>9.1%}", end="")
    print(f"{found['tokenize'] * 1e3:>13.1f}{found['render']:>8.1%}", end="")
    for kind in KINDS:
        print(f"{found['speed'][kind] / 1e6:>20.2f}{found['ratio'][kind]:>8.1%}", end="")
    print(f"{found['bytes'] / 1024:>11.0f}", flush=True)


def summary(documents: dict[int, dict], chats: dict[int, dict]) -> dict:
    """What the last line says, of results by T."""
    kind = KINDS[0]
    pairs = [(documents[length], chats[length]) for length in (512, 2048)]
    return {
        "align_over_tokenize": round(max(d["ratio"][kind] for d, _ in pairs), 4),
        "chat_align_over_tokenize": round(max(c["ratio"][kind] for _, c in pairs), 4),
        "chat_align_by_length": {str(t): round(c["ratio"][kind], 4) for t, c in chats.items()},
        "chat_render_over_tokenize": round(max(c["render"] for _, c in pairs), 4),
        "tokens_per_second": round(min(d["speed"][kind] for d, _ in pairs)),
        "bytes": {str(length): found["bytes"] for length, found in documents.items()},
        "hardware": hardware(1),
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
    show_header()
    first: dict[str, dict[int, dict]] = {shape: {} for shape in SHAPES}
    with tempfile.TemporaryDirectory() as folder:
        for number, pair in enumerate(pairs_for(args, Path(folder))):
            name = " -> ".join(Path(spec.split(":")[0]).name for spec in pair)
            name += " bytes" if "conversion=byte" in pair[1] else ""
            toks = [load_tokenizer(spec) for spec in pair]
            for shape in SHAPES:
                for length in (512, 2048, 8192):
                    rows = rows_of(toks[0], text, length, shape)
                    found = measure(toks, rows, repeats)
                    show(name, shape, length, found)
                    if number == 0:
                        first[shape][length] = found
    print(json.dumps(summary(*(first[shape] for shape in SHAPES))))


if __name__ == "__main__":
    main()
