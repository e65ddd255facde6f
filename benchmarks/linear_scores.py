"""Fused scores against the naive way that keeps logits, log-probs and probabilities.

    python benchmarks/linear_scores.py [--quick]

Forward and backward to hidden states and weight, boundary mask included. Each side's peak memory
is read in a process of its own; times are medians of interleaved repeats in another. The last
line is JSON: ``memory_ratio`` and ``time_ratio`` are ours / naive.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from tokenkit.models.linear_scores import linear_scores


def make_inputs(n: int, d: int, v: int) -> tuple:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(n, d, generator=generator).requires_grad_()
    weight = (0.05 * torch.randn(v, d, generator=generator)).requires_grad_()
    labels = torch.randint(0, v, (n,), generator=generator)
    boundary = torch.rand(v, generator=generator) < 0.4
    return hidden, weight, labels, boundary


def naive(hidden, weight, labels, boundary) -> tuple:
    logits = hidden @ weight.T
    logprobs = logits.log_softmax(-1)
    probs = logprobs.exp()
    label = logprobs.gather(1, labels[:, None]).squeeze(1)
    return label, (probs * boundary).sum(-1).log()


def fused(hidden, weight, labels, boundary) -> tuple:
    return linear_scores(hidden, weight, labels, boundary)[:2]


SIDES = {"naive": naive, "fused": fused}


def step(side: str, inputs: tuple) -> None:
    inputs[0].grad = inputs[1].grad = None
    label, boundary = SIDES[side](*inputs)
    (label.sum() + 0.5 * boundary.sum()).backward()


def peak_bytes(side: str, n: int, d: int, v: int) -> int:
    """Growth of this process's peak memory over what the inputs and their gradients take."""
    inputs = make_inputs(n, d, v)
    small = (inputs[0][:8].detach().requires_grad_(), inputs[1][:64].detach().requires_grad_(),
             inputs[2][:8] % 64, inputs[3][:64])  # fmt: skip
    step(side, small)  # libraries allocate their own buffers first
    gradients = [torch.ones_like(t) for t in inputs[:2]]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    del gradients
    step(side, inputs)
    return 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)


def measure_memory(side: str, shape: tuple[int, int, int]) -> int:
    command = [sys.executable, __file__, "--memory-of", side, "--shape", *map(str, shape)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def measure_times(shape: tuple[int, int, int], repeats: int) -> dict[str, float]:
    inputs = make_inputs(*shape)
    times: dict[str, list[float]] = {side: [] for side in SIDES}
    for repeat in range(repeats + 1):
        for side in SIDES:
            begin = time.perf_counter()
            step(side, inputs)
            if repeat:  # the first is a warm-up
                times[side].append(time.perf_counter() - begin)
    return {side: median(values) for side, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="smaller shape, under a minute")
    parser.add_argument("--memory-of", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--shape", type=int, nargs=3, help="N D V; default 4096 256 64000")
    args = parser.parse_args()
    shape = tuple(args.shape or ((1024, 128, 32000) if args.quick else (4096, 256, 64000)))
    if args.memory_of:
        print(peak_bytes(args.memory_of, *shape))
        return
    memory = {side: measure_memory(side, shape) for side in SIDES}
    times = measure_times(shape, repeats=3)
    print("N={} D={} V={} fp32, forward + backward".format(*shape))
    print(f"{'':<8} {'peak memory':>14} {'time':>10}")
    for side in SIDES:
        print(f"{side:<8} {memory[side] / 2**20:>10,.0f} MiB {times[side]:>8.2f} s")
    result = {
        "memory_ratio": memory["fused"] / memory["naive"],
        "time_ratio": times["fused"] / times["naive"],
        "shape": shape,
        "hardware": f"{platform.machine()} CPU, {torch.get_num_threads()} threads",
        "torch": torch.__version__,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
