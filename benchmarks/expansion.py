"""Input-id expansion of a byte-level tokenizer: the longest subword at each of a million bytes.

    python benchmarks/expansion.py [--quick] [--tokenizer SPEC]

Without a spec, a tokenizer of 32,768 tokens is trained. The last line is JSON: ``megabytes_per_s``
of whole rows; ``forward_share``, their time as a share of a small model's forward pass over the
same bytes (a Llama of 4 layers and width 192, that of the quickstart); ``step_us``, the time of the
newest position of one row alone; ``incremental_equal``, whether random bytes read one at a time are
expanded as whole rows are.
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
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.common import hardware, library_text, train_bpe  # noqa: E402
from tokenkit.tokenizers import InputExpander, load_tokenizer  # noqa: E402

TOKENS, ROW, SHOWN_ROWS = 1_000_000, 2000, 8


def median_seconds(function: Callable[[], object], runs: int) -> float:
    seconds = []
    for _ in range(runs):
        begin = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds)


def forward_seconds(vocab_size: int, runs: int) -> float:
    """A byte's share of a forward pass."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=vocab_size, hidden_size=192, intermediate_size=512, num_hidden_layers=4,
        num_attention_heads=6,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    ids = torch.randint(256, (SHOWN_ROWS, ROW))
    with torch.no_grad():
        return median_seconds(lambda: model(ids, use_cache=False), runs) / ids.numel()


def incremental(expander: InputExpander) -> tuple[bool, float]:
    """Whether steps equal whole rows on random bytes, and seconds a step."""
    ids = np.random.default_rng(0).integers(0, 256, (1, 2000))
    whole = expander.expand(ids)
    begin = time.perf_counter()
    steps = []  # as an exported model takes them: the newest place of what was read last
    for end in range(1, ids.shape[1] + 1):
        window = ids[:, max(0, end - expander.longest) : end]
        steps.append(expander.trie.longest(window, np.zeros(window.shape, bool), 1)[:, 0])
    seconds = (time.perf_counter() - begin) / len(steps)
    return bool(np.array_equal(np.stack(steps, 1), whole)), seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="less training text, fewer runs")
    parser.add_argument("--tokenizer", help="spec of the subword tokenizer")
    args = parser.parse_args()
    torch.set_num_threads(1)
    runs = 3 if args.quick else 7
    text = library_text(2_000_000 if args.quick else 8_000_000)
    with tempfile.TemporaryDirectory() as folder:
        spec = args.tokenizer or train_bpe(Path(folder), text, 32_768) + ":source=Llama3"
        subword, byte = load_tokenizer(spec), load_tokenizer(f"{spec}:conversion=byte")
    begin = time.perf_counter()
    expander = InputExpander(byte, subword)
    built = time.perf_counter() - begin
    ids = byte.encode(text[: TOKENS + 100_000])[:TOKENS].reshape(-1, ROW)
    took = median_seconds(lambda: expander.expand(ids), runs)
    share = took / ids.size / forward_seconds(len(byte), runs)
    equal, step = incremental(expander)
    rate = ids.size / took / 1e6
    print(f"{hardware(1)}: {len(subword):,} subwords, trie built in {built:.2f} s")
    print(f"{ids.size:,} bytes in {took:.3f} s, {rate:.1f} MB/s")
    print(f"{share:.2%} of a small model's forward pass")
    print(f"one position: {step * 1e6:.0f} µs; random bytes equal whole rows: {equal}")
    result = {
        "megabytes_per_s": round(rate, 1), "forward_share": round(share, 5),
        "step_us": round(step * 1e6), "incremental_equal": equal,
        "build_seconds": round(built, 2), "hardware": hardware(1),
    }  # fmt: skip
    print(json.dumps(result))


if __name__ == "__main__":
    main()
