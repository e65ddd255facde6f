"""Chunked next-token scores beside the plain implementation: peak memory and time.

    python benchmarks/linear_scores.py [--quick] [--device cuda --hidden 4096 --vocab 128256]

All compute label and boundary log-probs of N positions over V tokens and their gradients on hidden
states and output matrix. The plain one keeps logits, log-probs and probs; on a GPU ``inductor`` is
the same, some rows at a time, by torch.compile. On a CPU in fp32; memory is what a fresh process
peaks at beyond its inputs. On a GPU in bf16. Times are medians of interleaved runs. The last line
is JSON: ``memory_ratio`` and ``time_ratio`` are chunked / plain, ``tflops`` count the three
matmuls that the result needs, ``tflops_done`` of the chunked one the four that it does.
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
    logits = (hidden @ weight.T).float()
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


CHUNK = 1024  # rows at a time of the inductor side


@torch.compile(dynamic=False)
def _scores_of_rows(
    hidden: Tensor, weight: Tensor, labels: Tensor, mask: Tensor
) -> tuple[Tensor, Tensor]:
    logits = (hidden @ weight.T).float()
    total = logits.logsumexp(-1)
    inside = logits.masked_fill(~mask, -torch.inf).logsumexp(-1)
    return logits.gather(1, labels[:, None]).squeeze(1) - total, inside - total


def inductor(hidden: Tensor, weight: Tensor, labels: Tensor, mask: Tensor):
    """Scores by compiled chunks of rows, each run backward at once."""
    found = []
    for rows in range(0, len(hidden), CHUNK):
        part = slice(rows, rows + CHUNK)
        label, boundary = _scores_of_rows(hidden[part], weight, labels[part], mask)
        ((-label.sum() - boundary.sum()) / len(hidden)).backward()
        found.append((label.detach(), boundary.detach()))
    return tuple(torch.cat(column) for column in zip(*found, strict=True))


SIDES: dict[str, Callable] = {"plain": plain, "chunked": chunked}
GPU_SIDES = SIDES | {"inductor": inductor}


def make_inputs(n: int, d: int, v: int, device: str = "cpu") -> tuple[Tensor, ...]:
    """Hidden states, output matrix, labels and a boundary mask of 40% of the tokens."""
    if device != "cpu":
        hidden, weight, labels, mask = make_inputs_on(device, n, d, v)
        return hidden.requires_grad_(), weight.requires_grad_(), labels, mask
    generator = torch.Generator().manual_seed(0)
    hidden = torch.empty(n, d).normal_(generator=generator).requires_grad_()
    weight = torch.empty(v, d).normal_(0.0, 2.0 / d**0.5, generator=generator).requires_grad_()
    labels = torch.randint(v, (n,), generator=generator)
    mask = torch.rand(v, generator=generator) < 0.4
    return hidden, weight, labels, mask


def make_inputs_on(device: str, n: int, d: int, v: int) -> tuple[Tensor, ...]:
    """The same in bf16, drawn on a GPU."""
    torch.manual_seed(0)
    options = {"device": device, "dtype": torch.bfloat16}
    weight = torch.randn(v, d, **options) * (2.0 / d**0.5)
    labels = torch.randint(v, (n,), device=device)
    return torch.randn(n, d, **options), weight, labels, torch.rand(v, device=device) < 0.4


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


def measure_on_gpu(sizes: tuple[int, int, int], repeats: int) -> dict:
    """Median seconds and peak MiB of each side, after comparing what they compute."""
    inputs = make_inputs(*sizes, device="cuda")
    hidden, weight = inputs[:2]
    seconds: dict[str, list[float]] = {side: [] for side in GPU_SIDES}
    memory, results = {}, {}
    for repeat in range(repeats + 1):
        for side, compute in GPU_SIDES.items():
            hidden.grad = weight.grad = None
            torch.cuda.synchronize()
            if repeat == 1:
                torch.cuda.reset_peak_memory_stats()
            before, begin = torch.cuda.memory_allocated(), time.perf_counter()
            scores = compute(*inputs)
            torch.cuda.synchronize()
            if repeat:
                seconds[side].append(time.perf_counter() - begin)
            else:
                results[side] = [x.float() for x in (*scores, hidden.grad)]
            if repeat == 1:
                memory[side] = (torch.cuda.max_memory_allocated() - before) / MIB
    for side in GPU_SIDES:
        for ours, theirs in zip(results[side], results["plain"], strict=True):
            error = ((ours - theirs).norm() / theirs.norm()).item()
            assert error < 0.02, (side, error)
    n, d, v = sizes
    matmul = 2e-12 * n * d * v
    medians = {side: statistics.median(values) for side, values in seconds.items()}
    for side, value in medians.items():
        print(f"{side:<10}{memory[side]:>12.0f} MiB{value * 1e3:>12.2f} ms")
    return {
        "memory_ratio": round(memory["chunked"] / memory["plain"], 4),
        "time_ratio": round(medians["chunked"] / medians["plain"], 3),
        "tflops": {side: round(3 * matmul / value) for side, value in medians.items()},
        "tflops_done": round(4 * matmul / medians["chunked"]),
        "hardware": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        **{"n": n, "d": d, "v": v},
        "memory_mib": {side: round(value) for side, value in memory.items()},
        "seconds": {side: round(value, 5) for side, value in medians.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="half the positions, fewer runs")
    parser.add_argument("--positions", type=int, help="N (default 4096, 2048 with --quick)")
    parser.add_argument("--hidden", type=int, default=256, help="D")
    parser.add_argument("--vocab", type=int, default=64_000, help="V")
    parser.add_argument("--repeats", type=int, help="timed runs (default 5, 2 with --quick)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--memory-of", choices=list(SIDES), help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    n = args.positions or (2048 if args.quick else 4096)
    sizes = (n, args.hidden, args.vocab)
    if args.device == "cuda":
        print(json.dumps(measure_on_gpu(sizes, args.repeats or 10)))
        return
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
