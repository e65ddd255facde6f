"""Every loss beside two others: a plain implementation that keeps all logits, and the matmul floor.

    python benchmarks/losses.py [--quick] [--only NAME,…] [--device cuda --dtype bfloat16]

``plain`` computes logits, log-probs and probs of both sides and keeps them, as the JAX reference
does. ``floor`` is the matmuls with the output matrix alone, forward and backward. Memory is what a
fresh process peaks at beyond its inputs (on a GPU: what torch allocates). The last line is JSON:
for every loss ``memory_ratio`` and ``time_ratio`` (ours / plain) and ``floor_ratio`` (ours /
floor). The teacher's logits are part of a loss that needs more than two numbers a token.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.common import hardware, peak_bytes, resident_bytes  # noqa: E402
from tokenkit.config import config_from_dict  # noqa: E402
from tokenkit.data import Batch  # noqa: E402
from tokenkit.losses.base import Signals  # noqa: E402
from tokenkit.losses.divergences import Divergence  # noqa: E402
from tokenkit.losses.registry import LOSSES  # noqa: E402
from tokenkit.losses.side_path import SidePath, difference  # noqa: E402
from tokenkit.losses.uld import sorted_distance  # noqa: E402
from tokenkit.models.vocabulary import Vocabulary  # noqa: E402

MIB = 2**20
ROW = 512  # tokens per row
# Positions by default: the plain versions of the later ones keep six tensors of all logits.
NAMES = {"alm_unconstrained+sft": 4096, "kd": 1024, "uld": 1024, "alm_side_path": 1024}


@dataclass
class Case:
    """One micro-batch: the same text in two tokenizations of equal length, one token a chunk."""

    batch: Batch
    hidden: Tensor  # [B, T, D] student's
    student: Vocabulary
    teacher_hidden: Tensor
    teacher: Vocabulary
    boundary: Tensor  # [V] bool
    teacher_scores: Signals | None = None


def make_case(n: int, d: int, v: int, device: str, dtype: torch.dtype) -> Case:
    generator = torch.Generator().manual_seed(0)
    rows, length = max(1, n // ROW), min(n, ROW)

    def draw(*shape: int, scale: float = 1.0) -> Tensor:
        return (torch.randn(*shape, generator=generator) * scale).to(device, dtype)

    ids = torch.randint(v, (rows, length), generator=generator).to(device)
    mask = torch.ones_like(ids, dtype=torch.bool)
    chunks = {"unconstrained": torch.arange(length, dtype=torch.int32).expand(rows, -1).to(device)}
    batch = Batch(ids, mask, mask, ids, mask, mask, chunks, chunks)
    vocabularies = []
    for trained in (True, False):
        vocabulary = Vocabulary(v, d, tied=True, valid_vocab=v, device=device, dtype=dtype)
        vocabulary.input.data = draw(v, d, scale=2 / d**0.5)
        vocabularies.append(vocabulary.requires_grad_(trained))
    boundary = (torch.rand(v, generator=generator) < 0.4).to(device)
    hidden = draw(rows, length, d).requires_grad_()
    teacher_hidden = draw(rows, length, d)
    return Case(batch, hidden, vocabularies[0], teacher_hidden, vocabularies[1], boundary)


def teacher_scores(case: Case) -> Signals:
    with torch.no_grad():
        found = case.teacher.scores(
            case.teacher_hidden, case.batch.teacher_ids, case.batch.teacher_mask, case.boundary
        )
    return Signals(found.label_logprob, found.boundary_logprob)


def ours(name: str, case: Case) -> Tensor:
    """One or two of tokenkit's losses, added."""
    names = name.split("+")
    if "alm_unconstrained" in names:
        found = case.student.scores(
            case.hidden, case.batch.student_ids, case.batch.student_mask, case.boundary
        )
        student = Signals(
            label_logprob=found.label_logprob, boundary_logprob=found.boundary_logprob
        )
        teacher = case.teacher_scores
    else:
        student = Signals(hidden=case.hidden, vocabulary=case.student)
        teacher = Signals(hidden=case.teacher_hidden, vocabulary=case.teacher)
    total = torch.zeros((), device=case.hidden.device)
    for part in names:
        config = config_from_dict({"loss": {"names": [part]}})
        if part == "alm_side_path":
            loss = SidePath(config, pairs=pairs(case))
        else:
            loss = LOSSES.get(part)(config)
        total = total + loss(case.batch, student, teacher, loss.count(case.batch, teacher))[0]
    return total


def pairs(case: Case) -> tuple[Tensor, Tensor]:
    shared = torch.arange(0, len(case.boundary), 2)
    return shared, shared


def all_logits(hidden: Tensor, vocabulary: Vocabulary) -> tuple[Tensor, Tensor, Tensor]:
    logits = (hidden @ vocabulary.input.T).float()
    logprobs = logits.log_softmax(-1)
    return logits, logprobs, logprobs.exp()


def plain(name: str, case: Case) -> Tensor:
    """The same losses on logits, log-probs and probs that are all kept."""
    student = all_logits(case.hidden, case.student)
    names = name.split("+")
    if "alm_unconstrained" in names:
        _, logprobs, probs = student
        labels = F.pad(case.batch.student_ids[:, 1:], (0, 1))
        label = logprobs.gather(-1, labels[..., None]).squeeze(-1)
        boundary = (probs @ case.boundary.float()).log()
        signals = Signals(label, boundary)
        total = torch.zeros((), device=case.hidden.device)
        for part in names:
            loss = LOSSES.get(part)(config_from_dict({"loss": {"names": [part]}}))
            count = loss.count(case.batch, case.teacher_scores)
            total = total + loss(case.batch, signals, case.teacher_scores, count)[0]
        return total
    with torch.no_grad():
        teacher = all_logits(case.teacher_hidden, case.teacher)
    if name == "kd":
        return Divergence("kl", 2.0)(student[0], teacher[0])[:, :-1].mean()
    if name == "uld":
        return sorted_distance(student[0], teacher[0]).mean()
    ids, other = pairs(case)
    return difference("kl", student[1][..., ids], teacher[1][..., other]).mean()


def floor(name: str, case: Case) -> None:
    """The matmuls alone: logits, and the gradients on hidden states and matrix."""
    hidden, matrix = case.hidden.detach().flatten(0, 1), case.student.input.detach()
    columns = 4096
    to_hidden = torch.zeros_like(hidden)
    for begin in range(0, len(matrix), columns):
        part = matrix[begin : begin + columns]
        block = hidden @ part.T
        block.T @ hidden
        to_hidden.addmm_(block, part)
    if "alm" not in name or name == "alm_side_path":
        for begin in range(0, len(matrix), columns):
            hidden @ matrix[begin : begin + columns].T


def run(side: str, name: str, case: Case) -> None:
    case.hidden.grad = case.student.input.grad = None
    if side == "floor":
        floor(name, case)
    else:
        {"ours": ours, "plain": plain}[side](name, case).backward()
    if case.hidden.is_cuda:
        torch.cuda.synchronize()


def prepared(sizes: tuple[int, int, int], device: str, dtype: str) -> Case:
    case = make_case(*sizes, device, getattr(torch, dtype))
    case.teacher_scores = teacher_scores(case)  # given to both sides
    return case


def measure_memory(side: str, name: str, sizes: tuple, device: str, dtype: str) -> float:
    """Peak of one forward and backward beyond its inputs, MiB; to be called in a fresh process."""
    run(side, name, prepared((16, 8, 64), device, dtype))  # libraries are set up
    case = prepared(sizes, device, dtype)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run(side, name, case)
        return (torch.cuda.max_memory_allocated() - before) / MIB
    before = resident_bytes()
    run(side, name, case)
    return (peak_bytes() - before) / MIB


def measure_times(name: str, case: Case, repeats: int) -> dict[str, float]:
    """Least seconds of each side, interleaved, after one round of warming up."""
    sides: dict[str, Callable] = {"ours": ours, "plain": plain, "floor": floor}
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    for repeat in range(repeats + 1):
        for side in sides:
            begin = time.perf_counter()
            run(side, name, case)
            if repeat:
                seconds[side].append(time.perf_counter() - begin)
    return {side: min(values) for side, values in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a quarter of the positions, one run")
    parser.add_argument("--only", help=f"of {', '.join(NAMES)}")
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

    def sizes_of(name: str) -> tuple[int, int, int]:
        n = args.positions or (NAMES[name] // 4 if args.quick else NAMES[name])
        return n, args.hidden, args.vocab

    if args.memory_of:
        side, name = args.memory_of
        print(measure_memory(side, name, sizes_of(name), args.device, args.dtype))
        return
    on_gpu = args.device == "cuda"
    machine = torch.cuda.get_device_name() if on_gpu else hardware(args.threads)
    print(
        f"{machine}, torch {torch.__version__}, {args.dtype}; D = {args.hidden}, V = {args.vocab}"
    )
    print(f"{'loss':<24}{'N':>6}{'ours MiB':>10}{'plain MiB':>11}", end="")
    print(f"{'ours s':>9}{'plain s':>9}{'floor s':>9}")
    results: dict[str, object] = {}
    for name in (args.only or ",".join(NAMES)).split(","):
        memory = {}
        for side in ("ours", "plain"):
            command = [sys.executable, __file__, *sys.argv[1:], "--memory-of", side, name]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            memory[side] = float(done.stdout.split()[-1])
        sizes = sizes_of(name)
        case = prepared(sizes, args.device, args.dtype)
        seconds = measure_times(name, case, args.repeats or (1 if args.quick else 3))
        print(f"{name:<24}{sizes[0]:>6}{memory['ours']:>10.0f}{memory['plain']:>11.0f}", end="")
        print("".join(f"{seconds[side]:>9.2f}" for side in ("ours", "plain", "floor")), flush=True)
        results[name] = {
            "memory_ratio": round(memory["ours"] / memory["plain"], 4),
            "time_ratio": round(seconds["ours"] / seconds["plain"], 3),
            "floor_ratio": round(seconds["ours"] / seconds["floor"], 3),
            "n": sizes[0],
        }
        del case
    settings = {"hardware": machine, "dtype": args.dtype, "d": args.hidden, "v": args.vocab}
    print(json.dumps(results | settings))


if __name__ == "__main__":
    main()
