"""Run train.py in real processes (gloo), fast: a fork server imports torch once."""

from __future__ import annotations

import importlib
import itertools
import json
import multiprocessing
import os
import socket
import sys
from pathlib import Path

# The fork server imports from the same places as this process.
ROOT = str(Path(__file__).parents[1])
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [ROOT, os.environ.get("PYTHONPATH")]))

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.launch_preload"])

# Processes with neighbouring numbers, and other test runs, begin elsewhere.
_LAUNCHES = itertools.count(os.getpid() * 101)

TOKENIZERS = Path(__file__).parent / "golden" / "tokenizers" / "tokenizers"
SPEC_A = f"{TOKENIZERS}/bpe_a:source=Llama3"
SPEC_B = f"{TOKENIZERS}/bpe_b:source=Qwen2:target=Llama3"


def free_port() -> int:
    """A port for a launch, below those that systems give away."""
    for number in _LAUNCHES:
        port = 20_000 + number % 12_000
        with socket.socket() as s:
            try:
                s.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue
    raise AssertionError("unreachable: numbers do not end")


def _rank_main(
    rank: int,
    world: int,
    port: int,
    argv: list[str],
    log: str,
    gpus: bool,
    program: str,
    cwd: Path | None,
) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.chdir(cwd or ".")
    # The server that forks these processes may have been started by a test that asked for it.
    os.environ.pop("TOKENKIT_TRACEBACK", None)
    if not gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world),
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), HF_HUB_OFFLINE="1",
    )  # fmt: skip
    import torch

    from tokenkit.failure import run_rank

    torch.set_num_threads(1)
    sys.argv = [program, *argv]
    run_rank(importlib.import_module(program).main)


def start_training(
    argv: list[str],
    world: int,
    log: Path,
    gpus: bool = False,
    program: str = "train",
    cwd: Path | None = None,
) -> list:
    """Start ``world`` ranks of train.py (of a module's ``main``) on the CPU or on GPUs."""
    port = free_port()
    rest = (world, port, argv, str(log), gpus, program, cwd)
    processes = [CONTEXT.Process(target=_rank_main, args=(rank, *rest)) for rank in range(world)]
    for process in processes:
        process.start()
    return processes


def train(
    argv: list[str],
    world: int,
    log: Path,
    timeout: float = 240,
    gpus: bool = False,
    program: str = "train",
    cwd: Path | None = None,
) -> None:
    """Run train.py to its end on ``world`` ranks; fails with its output if any rank fails."""
    processes = start_training(argv, world, log, gpus, program, cwd)
    for process in processes:
        process.join(timeout)
    codes = [process.exitcode for process in processes]
    for process in processes:
        if process.is_alive():
            process.kill()
    assert codes == [0] * world, f"exit codes {codes}\n{log.read_text()[-4000:]}"


def read_metrics(output_dir: Path) -> dict[int, dict[str, float]]:
    """Metrics by step; a step logged twice (after a resume) counts as last logged."""
    lines = (output_dir / "metrics.jsonl").read_text().splitlines()
    entries = [json.loads(line) for line in lines]
    return {e["step"]: e for e in entries if "loss" in e}


def read_losses(output_dir: Path) -> list[float]:
    return [metrics["loss"] for _, metrics in sorted(read_metrics(output_dir).items())]
