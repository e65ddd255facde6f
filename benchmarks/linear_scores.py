"""Chunked next-token scores beside the plain implementation: peak memory and time.

    python benchmarks/linear_scores.py [--quick]

Both compute label and boundary log-probs of N positions over V tokens and their gradients on
hidden states and output matrix, on CPU in fp32. The plain one keeps logits, log-probs and probs.
Memory is what a fresh process peaks at beyond its inputs; times are medians of interleaved runs.
The last line is JSON: ``memory_ratio`` and ``time_ratio`` are chunked / plain.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.common import hardware, peak_bytes, resident_bytes  # noqa: E402
from tokenkit.ops.linear_scores import linear_scores  # noqa: E402

MIB = 2**20


def plain(hidden: Tensor, weight: Tensor, labels: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Scores by full logits, log-probs and probs, all alive until the end of backward."""
    logits = hidden @ weight.T
    logprobs = logits.log_softmax(-1)
    probs = logprobs.exp()
    label = logprobs.gather(1, labels[:, None]).squeeze(1)
    boundary = (probs @ mask.to(probs.dtype)).log()
    (-label.mean() - boundary.mean()).backward()
    return label.detach(), boundary.detach()


def chunked(hidden: Tensor, weight: Tensor, labels: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Scores by :func:`linear_scores`."""
    scores = linear_scores(hidden, weight, labels, mask)
    (-scores.label_logprob.mean() - scores.boundary_logprob.mean()).backward()
    return scores.label_logprob.detach(), scores.boundary_logprob.detach()


SIDES: dict[str, Callable] = {"plain": plain, "chunked": chunked}


def make_inputs(n: int, d: int, v: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Hidden states, output matrix, labels and a boundary mask of 40% of the tokens."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.empty(n, d).normal_(generator=generator).requires_grad_()
    weight = torch.empty(v, d).normal_(0.0, 2.0 / d**0.5, generator=generator).requires_grad_()
    labels = torch.randint(v, (n,), generator=generator)
    mask = torch.rand(v, generator=generator) < 0.4
    return hidden, weight, labels, mask


def measure_memory(side: str, sizes: tuple[int, int, int]) -> float:
    """Peak of one forward and backward beyond its inputs, MiB; to be called in a fresh process."""
    SIDES[side](*make_inputs(8, 8, 64))  # thread pools and libraries are set up
    inputs = make_inputs(*sizes)
    before = resident_bytes()
    SIDES[side](*inputs)
    return (peak_bytes() - before) / MIB


def measure_memory_apart(side: str, arguments: list[str]) -> float:
    """:func:`measure_memory` in a process of its own, so that no side inherits the other's heap."""
    command = [sys.executable, __file__, "--memory-of", side, *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout.split()[-1])


def measure_times(sizes: tuple[int, int, int], repeats: int) -> dict[str, float]:
    """Median seconds of each side, after checking that both compute the same."""
    inputs = make_inputs(*sizes)
    hidden, weight = inputs[:2]
    results: dict[str, tuple[Tensor, ...]] = {}
    seconds: dict[str, list[float]] = {side: [] for side in SIDES}
    for repeat in range(repeats + 1):  # the first round warms up and is compared, not counted
        for side, compute in SIDES.items():
            hidden.grad = weight.grad = None
            begin = time.perf_counter()
            scores = compute(*inputs)
            if repeat:
                seconds[side].append(time.perf_counter() - begin)
            else:
                results[side] = (*scores, hidden.grad, weight.grad)
        if not repeat:
            for ours, theirs in zip(results["chunked"], results["plain"], strict=True):
                torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
            results.clear()
    return {side: statistics.median(values) for side, values in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="half the positions, fewer runs")
    parser.add_argument("--positions", type=int, help="N (default 4096, 2048 with --quick)")
    parser.add_argument("--hidden", type=int, default=256, help="D")
    parser.add_argument("--vocab", type=int, default=64_000, help="V")
    parser.add_argument("--repeats", type=int, help="timed runs (default 5, 2 with --quick)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--memory-of", choices=list(SIDES), help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    n = args.positions or (2048 if args.quick else 4096)
    sizes = (n, args.hidden, args.vocab)
    if args.memory_of:
        print(measure_memory(args.memory_of, sizes))
        return

    passed_on = ["--positions", n, "--hidden", args.hidden, "--vocab", args.vocab]
    passed_on = [str(value) for value in [*passed_on, "--threads", args.threads]]
    memory = {side: measure_memory_apart(side, passed_on) for side in SIDES}
    seconds = measure_times(sizes, args.repeats or (2 if args.quick else 5))

    print(f"N = {n}, D = {args.hidden}, V = {args.vocab}, fp32, forward and backward")
    print(f"{hardware(args.threads)}, torch {torch.__version__}")
    print(f"{'':<10}{'peak MiB':>12}{'seconds':>12}")
    for side in SIDES:
        print(f"{side:<10}{memory[side]:>12.0f}{seconds[side]:>12.2f}")
    result = {
        "memory_ratio": round(memory["chunked"] / memory["plain"], 4),
        "time_ratio": round(seconds["chunked"] / seconds["plain"], 3),
        "hardware": hardware(args.threads),
        "n": n,
        "d": args.hidden,
        "v": args.vocab,
        "memory_mib": {side: round(value) for side, value in memory.items()},
        "seconds": {side: round(value, 3) for side, value in seconds.items()},
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
