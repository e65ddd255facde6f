"""Every loss beside two others: a plain implementation that keeps all logits, and the matmul floor.

    python benchmarks/losses.py [--quick] [--only NAME,…] [--device cuda --dtype bfloat16]

``plain`` computes logits, log-probs and probs of both sides and keeps them, as the JAX reference
does (``alm_latents``: dense alignment matrices). ``floor`` is the matmuls with the output matrix
alone, forward and backward. Memory is what a fresh process peaks at beyond its inputs (on a GPU:
what torch allocates). The last line is JSON: for every loss ``memory_ratio`` and ``time_ratio``
(ours / plain) and ``floor_ratio`` (ours / floor; null for a loss without logits).
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
from benchmarks.loss_cases import Case, floor, make_case, total_loss  # noqa: E402

MIB = 2**20
# Positions by default: the plain versions of the later ones keep six and more tensors of logits.
NAMES = {
    "alm_unconstrained+sft": 4096, "sft": 2048, "alm_unconstrained": 2048, "alm_space": 2048,
    "alm_unbiased": 2048, "alm_latents": 4096, "kd": 1024, "uld": 1024, "alm_side_path": 1024,
    "mined": 1024, "dskd": 512,
}  # fmt: skip
SIDES = ("ours", "plain", "floor")


def run(side: str, case: Case) -> None:
    case.hidden.grad = case.student.input.grad = None
    if side == "floor":
        floor(case)
    else:
        total_loss(case).backward()
    if case.hidden.is_cuda:
        torch.cuda.synchronize()


def measure_memory(side: str, name: str, sizes: tuple, device: str, dtype: torch.dtype) -> float:
    """Peak of one forward and backward beyond its inputs, MiB; to be called in a fresh process."""
    plain = side == "plain"
    run(side, make_case(name, 16, 8, 64, device, dtype, plain))  # libraries are set up
    case = make_case(name, *sizes, device, dtype, plain)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run(side, case)
        return (torch.cuda.max_memory_allocated() - before) / MIB
    with contextlib.suppress(OSError):  # making the inputs may have needed more; Linux forgets
        Path("/proc/self/clear_refs").write_text("5")
    before = resident_bytes()
    run(side, case)
    return (peak_bytes() - before) / MIB


def measure_times(
    name: str, sizes: tuple, device: str, dtype: torch.dtype, repeats: int
) -> dict[str, float]:
    """Least seconds of each side, interleaved, after one round of warming up."""
    ours = make_case(name, *sizes, device, dtype)
    plain = make_case(name, *sizes, device, dtype, plain=True)
    cases = {"ours": ours, "plain": plain, "floor": ours}
    seconds: dict[str, list[float]] = {side: [] for side in SIDES}
    for repeat in range(repeats + 1):
        for side in SIDES:
            begin = time.perf_counter()
            run(side, cases[side])
            if repeat:
                seconds[side].append(time.perf_counter() - begin)
    return {side: min(values) for side, values in seconds.items()}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a quarter of the positions, one run")
    parser.add_argument("--only", default=",".join(NAMES), help="(default: %(default)s)")
    parser.add_argument("--positions", type=int, help="N, instead of each loss's own")
    parser.add_argument("--hidden", type=int, default=512, help="D")
    parser.add_argument("--vocab", type=int, default=128_256, help="V")
    parser.add_argument("--repeats", type=int, help="timed runs (default 3)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--memory-of", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    return args


def compare(name: str, sizes: tuple, args: argparse.Namespace) -> dict[str, float | None]:
    """Measure one loss, print its line, return its ratios."""
    memory = {}
    for side in ("ours", "plain"):
        command = [sys.executable, __file__, *sys.argv[1:], "--memory-of", side, name]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        memory[side] = float(done.stdout.split()[-1])
    repeats = args.repeats or (1 if args.quick else 3)
    seconds = measure_times(name, sizes, args.device, getattr(torch, args.dtype), repeats)
    print(f"{name:<24}{sizes[0]:>6}{memory['ours']:>10.0f}{memory['plain']:>11.0f}", end="")
    print("".join(f"{seconds[side]:>9.3f}" for side in SIDES), flush=True)
    has_logits = name != "alm_latents"
    return {
        "memory_ratio": round(memory["ours"] / memory["plain"], 4),
        "time_ratio": round(seconds["ours"] / seconds["plain"], 3),
        "floor_ratio": round(seconds["ours"] / seconds["floor"], 3) if has_logits else None,
        "n": sizes[0],
    }


def main() -> None:
    args = parse_args()

    def sizes_of(name: str) -> tuple[int, int, int]:
        n = args.positions or (NAMES[name] // 4 if args.quick else NAMES[name])
        return n, args.hidden, args.vocab

    if args.memory_of:
        side, name = args.memory_of
        print(measure_memory(side, name, sizes_of(name), args.device, getattr(torch, args.dtype)))
        return
    machine = torch.cuda.get_device_name() if args.device == "cuda" else hardware(args.threads)
    print(f"{machine}, torch {torch.__version__}, {args.dtype}; D {args.hidden}, V {args.vocab}")
    print(f"{'loss':<24}{'N':>6}{'ours MiB':>10}{'plain MiB':>11}", end="")
    print("".join(f"{side + ' s':>9}" for side in SIDES))
    results = {name: compare(name, sizes_of(name), args) for name in args.only.split(",")}
    settings = {"hardware": machine, "dtype": args.dtype, "d": args.hidden, "v": args.vocab}
    print(json.dumps(results | settings))


if __name__ == "__main__":
    main()
