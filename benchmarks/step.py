"""A whole optimizer step of train.py's components on a model of a real shape, drawn at random.

    python benchmarks/step.py [--quick] [--shape 1b] [--cases bare,compile] [-- --section.key v]

Each case is a few steps in a process of its own: sft + alm, LoRA, self-distillation to another
tokenizer, balanced by gradient norms, as ``train_configs/llama3_to_qwen2.toml`` does. ``plain``
has the layers as they are, ``compile`` compiles them; ``recompute`` adds activation checkpointing
of cheap operations. ``bare`` trains fully without balancing, in turns with the same work done by
hand (:mod:`benchmarks.bare_loop`): ``ratio`` is ours / theirs in tokens per second,
``overhead_seconds`` what a step of ours takes longer; ``balanced`` beside it balances, too. The
first steps warm up. The last line is JSON: for every case ``tokens_per_second`` (of the student),
``seconds`` a step, ``mfu`` (of student and teacher; null on a CPU), ``hfu`` (with all that is done
twice), ``memory_gib`` and ``waits`` (how often a step makes the CPU wait for the device; null on a
CPU).
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path

import torch
import torch.distributed as dist
from transformers import AutoConfig

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.bare_loop import BareLoop  # noqa: E402
from benchmarks.common import (  # noqa: E402
    QWEN_WORDS,
    hardware,
    in_own_process,
    leave,
    library_text,
    train_bpe,
    wait_for,
)
from tests.training.in_process import Training  # noqa: E402
from tokenkit.config import load_config, validate  # noqa: E402
from tokenkit.parallelisms import init_parallel  # noqa: E402
from tokenkit.training.environment import set_up_process  # noqa: E402
from tokenkit.training.metrics import memory_gib  # noqa: E402
from tokenkit.training.throughput import peak_flops, speed, step_flops  # noqa: E402

# Llama 3.2's shapes, and one that a CPU can train.
SHAPES = {
    "cpu": {"hidden_size": 512, "intermediate_size": 1376, "num_hidden_layers": 6,
            "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 64},
    "tiny": {"hidden_size": 64, "intermediate_size": 176, "num_hidden_layers": 2,
             "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16},
    "1b": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
           "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64},
    "3b": {"hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 28,
           "num_attention_heads": 24, "num_key_value_heads": 8, "head_dim": 128},
}  # fmt: skip
CASES = {
    "bare": {"student.train": "full", "loss.aggregation": ""},
    "balanced": {"student.train": "full"},
    "plain": {},
    "compile": {"compile.enable": "true"},
    "static": {"compile.enable": "true", "compile.dynamic": "false"},
    "recompute": {"activation_checkpoint.mode": "selective_ops"},
    "both": {"compile.enable": "true", "activation_checkpoint.mode": "selective_ops"},
}
BESIDE = ("bare", "balanced")
WARM_UP = 3
LATER = 64  # timed steps are counted from here, where norms are measured every tenth step


def settings(args: argparse.Namespace, folder: Path) -> list[str]:
    """Command line of the run; its files are written into ``folder``."""
    shape = dict(SHAPES[args.shape], tie_word_embeddings=True, rope_theta=500000.0)
    AutoConfig.for_model("llama", **shape).save_pretrained(folder / "model")
    text = library_text(2_000_000)
    specs = [args.tokenizer, args.target]
    for number, words in enumerate((None, QWEN_WORDS)):
        if not specs[number]:
            extra = {} if words is None else {"words": words}
            size = 2000 if args.quick else 32_000
            specs[number] = train_bpe(folder / str(number), text, size, **extra) + ":source=Llama3"
    size = args.length * 6  # characters, more than a row holds
    with (folder / "rows.jsonl").open("w") as file:
        for begin in range(0, len(text) - size, size):
            file.write(json.dumps({"text": text[begin : begin + size]}) + "\n")
    values = {
        "student.model": folder / "model", "student.init": "random", "student.train": "lora",
        "student.tokenizer": specs[0], "student.target_tokenizer": specs[1],
        "student.embedding_init": "random", "student.pad_vocab_multiple": 128, "lora.rank": 64,
        "loss.names": "sft,alm_unconstrained", "loss.aggregation": "approx_gradmag_preserve_mag",
        "data.train": folder / "rows.jsonl", "data.num_workers": args.workers,
        "training.steps": WARM_UP + args.steps, "training.batch_size": args.batch_size,
        "training.micro_batch_size": args.micro_batch_size,
        "training.max_teacher_length": args.length, "training.max_student_length": args.length,
        "training.dtype": args.dtype, "checkpoint.enable": "false",
    }  # fmt: skip
    values |= CASES[args.case]
    words = [word for key, value in values.items() for word in (f"--{key}", str(value))]
    return words + args.overrides


def count_waits(training: Training, step: int, device: torch.device) -> int | None:
    """How often the CPU waits for the device within a step."""
    batch = training.batch().to(device)
    if device.type != "cuda":
        return None
    torch.cuda.synchronize()
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        training(batch, step)
        torch.cuda.set_sync_debug_mode("default")
    # Torch's own notice that this mode is a prototype is not one of them.
    found = [w for w in found if "called a synchronizing" in str(w.message)]
    for place in sorted({f"{w.filename}:{w.lineno}" for w in found}):
        print(f"  waits at {place}", file=sys.stderr)
    return len(found)


def measure(args: argparse.Namespace, folder: Path) -> dict[str, float | int | None]:
    """Train some steps."""
    start = time.perf_counter()
    config = load_config(settings(args, folder))
    validate(config, 1)
    set_up_process(config)
    parallel = init_parallel(config)
    device = parallel.device
    training = Training(config, parallel, keep_gradients=False)
    stats: Counter[str] = Counter()
    begin = 0.0
    print(f"  {time.perf_counter() - start:.0f} s to build", file=sys.stderr)
    for step in range(WARM_UP + args.steps):
        if step == WARM_UP:
            wait_for(device)
            print(f"  {time.perf_counter() - start:.0f} s to the end of warm-up", file=sys.stderr)
            stats.clear()
            begin = time.perf_counter()
        batch = training.batch()
        stats.update(batch.stats)
        training(batch.to(device), step if step < WARM_UP else LATER + step)
    wait_for(device)
    seconds = time.perf_counter() - begin
    flops = step_flops(config, training.student, training.step.teacher, training.step.losses, 1)
    peak = peak_flops(device, config.training.dtype)
    found = speed(flops, stats, seconds, 0.0, 1, peak)
    memory = memory_gib(device)
    if args.profile:
        profile(training, device)
    beside = beside_bare(args, training, device) if args.case in BESIDE else {}
    result = {
        "tokens_per_second": round(found["tokens_per_second"]),
        "seconds": round(seconds / args.steps, 4),
        "mfu": round(found["mfu"], 4) if peak else None,
        "hfu": round(found["hfu"], 4) if peak else None,
        "memory_gib": round(memory, 2),
        "waits": count_waits(training, WARM_UP, device),
        "rows": training.student.vocabulary.input.shape[0],
        **beside,
    }
    dist.destroy_process_group()
    return result


def beside_bare(args: argparse.Namespace, training: Training, device: torch.device) -> dict:
    """Steps of ours and of a bare loop in turns, on the same batches."""
    shape = dict(SHAPES[args.shape], tie_word_embeddings=True, rope_theta=500000.0)
    teacher = training.step.teacher.model.vocabulary
    rows = teacher.input.shape[0], training.student.vocabulary.input.shape[0]
    bare = BareLoop(shape, rows, device)
    seconds: dict[str, list[float]] = {"ours": [], "bare": []}
    for step in range(args.steps + 1):
        batch = training.batch().to(device)
        sides = {
            "ours": lambda b=batch, s=step: training(b, LATER + s),
            "bare": lambda b=batch: bare(b),
        }
        for side, run in sides.items():
            wait_for(device)
            begin = time.perf_counter()
            run()
            wait_for(device)
            if step:
                seconds[side].append(time.perf_counter() - begin)
    print(
        {side: [round(s, 3) for s in values] for side, values in seconds.items()}, file=sys.stderr
    )
    ours, theirs = (statistics.mean(seconds[side]) for side in ("ours", "bare"))
    return {"ratio": round(theirs / ours, 4), "overhead_seconds": round(ours - theirs, 4)}


def profile(training: Training, device: torch.device) -> None:
    """Print the device's costliest kernels of one step."""
    batch = training.batch().to(device)
    activities = [torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as found:
        training(batch, WARM_UP)
        wait_for(device)
    table = found.key_averages().table(sort_by="self_cuda_time_total", row_limit=25)
    print(table, file=sys.stderr)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--quick", action="store_true", help="a tiny model, two short steps")
    add("--shape", choices=SHAPES, default="1b")
    add(
        "--cases",
        default="bare,plain,compile",
        help=f"of {', '.join(CASES)} (default: %(default)s)",
    )
    add("--tokenizer", help="spec of the model's (default: one trained here, 32,000 tokens)")
    add("--target", help="spec of the new one (default: another trained here)")
    add("--steps", type=int, default=10, help="timed ones")
    add("--batch-size", type=int, default=32)
    add("--micro-batch-size", type=int, default=8)
    add("--length", type=int, default=512)
    add("--workers", type=int, default=4)
    add("--dtype", default="bfloat16")
    add("--profile", action="store_true", help="print a step's costliest kernels")
    add("--case", choices=CASES, help=argparse.SUPPRESS)
    add("--result", help=argparse.SUPPRESS)
    add("overrides", nargs="*", help="further settings, after --")
    args = parser.parse_args()
    if not torch.cuda.is_available() and args.shape == "1b" and not args.quick:
        args.shape, args.batch_size, args.micro_batch_size, args.workers = "cpu", 8, 4, 0
        args.dtype, args.length = "float32", 256
    if args.quick:
        args.shape, args.steps, args.batch_size, args.micro_batch_size = "tiny", 2, 4, 2
        args.length, args.workers, args.dtype = 64, 0, "float32"
    return args


def main() -> None:
    args = parse_args()
    if args.case:
        with tempfile.TemporaryDirectory() as folder:
            result = measure(args, Path(folder))
        leave(args.result, result)
    gpu = torch.cuda.is_available()
    machine = torch.cuda.get_device_name() if gpu else hardware(torch.get_num_threads())
    print(f"{machine}, torch {torch.__version__}, {args.dtype}, shape {args.shape}")
    results = {}
    for case in args.cases.split(","):
        try:
            results[case] = in_own_process(__file__, ["--case", case, *sys.argv[1:]])
        except RuntimeError:
            print(f"{case:<12} failed", flush=True)
            continue
        print(f"{case:<12} {results[case]}", flush=True)
    sizes = {"batch_size": args.batch_size, "micro_batch_size": args.micro_batch_size}
    known = {"shape": args.shape, "dtype": args.dtype, "length": args.length, **sizes}
    print(json.dumps(results | known | {"hardware": machine, "torch": torch.__version__}))


if __name__ == "__main__":
    main()
