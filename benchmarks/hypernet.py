"""Predicting a vocabulary by a hypernetwork, forward and backward: chunks against all at once.

    python benchmarks/hypernet.py [--quick] [--vocab N --hidden D] [--device cuda]

``ours`` runs surface forms of one length together, in chunks that backward recomputes; ``plain``
pads all forms to the longest and runs them at once. Memory is what a fresh process peaks at
beyond its inputs. The last line is JSON: ``memory_ratio`` and ``time_ratio`` (ours / plain), and
the peak in units of the predicted matrices.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.common import hardware, peak_bytes, resident_bytes  # noqa: E402
from tokenkit.config.schema_hypernet import HypernetConfig  # noqa: E402
from tokenkit.models.vocabulary.hypernet import (  # noqa: E402
    HypernetVocabulary,  # noqa: E402
    build_hypernet_vocabulary,
    fill_hypernet,
)
from tokenkit.models.vocabulary.table import Vocabulary  # noqa: E402
from tokenkit.tokenizers.sampling.token_forms import TokenForms  # noqa: E402

SOURCE_ROWS, LONGEST = 32_000, 8
# Shares of tokens spelt with 1, 2, … source tokens: sampled vocabularies spelt by a 32k BPE
LENGTHS = (0.35, 0.3, 0.18, 0.09, 0.04, 0.02, 0.01, 0.01)


def make_case(vocab: int, hidden: int, device: str) -> tuple[HypernetVocabulary, TokenForms]:
    generator = torch.Generator().manual_seed(0)
    rows = min(SOURCE_ROWS, vocab)
    config = HypernetConfig(architecture="transformer", max_surface_length=LONGEST)
    table = Vocabulary(rows, hidden, tied=False, valid_vocab=rows)
    made = build_hypernet_vocabulary(config, table, torch.float32).to_empty(device=device)
    matrices = [torch.randn(rows, hidden, generator=generator) for _ in range(2)]
    made.input.data.copy_(matrices[0])
    made.output.data.copy_(matrices[1])
    fill_hypernet(made, (matrices[0], matrices[1]), 0)
    made.input.requires_grad_(False)
    made.output.requires_grad_(False)
    ids = torch.randint(rows, (vocab, LONGEST), generator=generator)
    shares = torch.tensor(LENGTHS)
    lengths = 1 + torch.multinomial(shares, vocab, replacement=True, generator=generator)
    none = torch.zeros(vocab, dtype=torch.bool)
    forms = TokenForms(ids, lengths, none, none, lengths == 1, vocab, rows)
    return made, forms.map(lambda tensor: tensor.to(device))


def run(side: str, made: HypernetVocabulary, forms: TokenForms) -> None:
    made.zero_grad(set_to_none=True)
    if side == "plain":
        predicted = made.hypernet(made.embeddings_of(forms.ids), forms.mask)
        predicted.backward(torch.ones_like(predicted))
    else:
        with made.step(forms, made.predict):
            for leaf in made.predicted:
                leaf.grad = torch.ones_like(leaf)
    if forms.ids.is_cuda:
        torch.cuda.synchronize()


def measure_memory(side: str, vocab: int, hidden: int, device: str) -> float:
    """MiB beyond the inputs; to be called in a fresh process."""
    run(side, *make_case(64, hidden, device))
    case = make_case(vocab, hidden, device)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run(side, *case)
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    with contextlib.suppress(OSError):  # making the inputs may have needed more; Linux forgets
        Path("/proc/self/clear_refs").write_text("5")
    before = resident_bytes()
    run(side, *case)
    return (peak_bytes() - before) / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="an eighth of the vocabulary, one run")
    parser.add_argument("--vocab", type=int, default=32_768)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    vocab = args.vocab // 8 if args.quick else args.vocab
    if args.memory_of:
        print(measure_memory(args.memory_of, vocab, args.hidden, args.device))
        return
    memory, seconds = {}, {"ours": [], "plain": []}
    for side in seconds:
        command = [sys.executable, __file__, *sys.argv[1:], "--memory-of", side]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        memory[side] = float(done.stdout.split()[-1])
    case = make_case(vocab, args.hidden, args.device)
    for _ in range(1 if args.quick else 3):
        for side, values in seconds.items():
            begin = time.perf_counter()
            run(side, *case)
            values.append(time.perf_counter() - begin)
    machine = torch.cuda.get_device_name() if args.device == "cuda" else hardware(args.threads)
    print(f"{machine}: {vocab:,} tokens, hidden size {args.hidden}, input and output matrix")
    for side, values in seconds.items():
        print(f"{side:<8}{min(values):>8.2f} s{memory[side]:>10.0f} MiB")
    matrices = 2 * vocab * args.hidden * 4 / 2**20
    result = {
        "memory_ratio": round(memory["ours"] / memory["plain"], 4),
        "time_ratio": round(min(seconds["ours"]) / min(seconds["plain"]), 3),
        "peak_in_matrices": round(memory["ours"] / matrices, 2),
    }
    print(json.dumps(result | {"vocab": vocab, "hidden": args.hidden, "hardware": machine}))


if __name__ == "__main__":
    main()
