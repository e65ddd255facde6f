"""A step with a teacher on disk beside one with a live teacher of the student's size.

    python benchmarks/teacher_cache.py [--quick] [--train lora,full] [-- --section.key v]

Both are train.py's steps of sft + alm on the same rows, in one process and in turns, each with the
time its batch takes to be made; the cache is written first, by ``tokenkit cache-teacher``. The last
line is JSON: ``speedup`` (time of a live step over that of a cached one, medians) with the student
trained as the first of ``--train`` says, and ``speedup_lora``, ``speedup_full`` of each;
``bytes_per_token`` of the cache's shards, ``bytes_per_token_bfloat16``, and ``meta_bytes`` of the
file that describes them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import torch.distributed as dist
from transformers import AutoConfig, AutoModelForCausalLM

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.common import QWEN_WORDS, hardware, library_text, train_bpe, wait_for  # noqa: E402
from benchmarks.step import SHAPES  # noqa: E402
from tests.training.in_process import Training  # noqa: E402
from tokenkit.config import load_config, validate  # noqa: E402
from tokenkit.parallelisms import init_parallel  # noqa: E402
from tokenkit.tokenizers import load_tokenizer  # noqa: E402
from tokenkit.training.environment import set_up_process  # noqa: E402
from tokenkit.training.teacher_cache.meta import read_meta  # noqa: E402

WARM_UP = 2
CACHED_ROWS = 320  # at least: with fewer, a file's header is what counts
LATER = 64  # timed steps are counted from here, where norms are measured every tenth step


def settings(args: argparse.Namespace, folder: Path) -> list[str]:
    """Command line of the run; its files are written into ``folder``."""
    text = library_text(2_000_000)
    size = 2000 if args.quick else args.vocabulary
    specs = [
        train_bpe(folder / name, text, size, **words) + ":source=Llama3"
        for name, words in (("teachers", {}), ("students", {"words": QWEN_WORDS}))
    ]
    for number, (name, spec) in enumerate(zip(("teacher", "student"), specs, strict=True)):
        shape = dict(SHAPES[args.shape], tie_word_embeddings=True, rope_theta=500000.0)
        config = AutoConfig.for_model("llama", **shape, vocab_size=len(load_tokenizer(spec)))
        torch.manual_seed(number)
        AutoModelForCausalLM.from_config(config).save_pretrained(folder / name)
    size = args.length * 6  # characters, more than a row holds
    with (folder / "rows.jsonl").open("w") as file:
        for begin in range(0, len(text) - size, size):
            file.write(json.dumps({"text": text[begin : begin + size]}) + "\n")
    values = {
        "student.model": folder / "student", "student.tokenizer": specs[1],
        "teacher.model": folder / "teacher", "teacher.tokenizer": specs[0], "lora.rank": 64,
        "loss.names": "sft,alm_unconstrained", "loss.aggregation": "approx_gradmag_preserve_mag",
        "data.train": folder / "rows.jsonl", "data.num_workers": args.workers,
        "training.steps": max(WARM_UP + args.steps, CACHED_ROWS // args.batch_size),
        "training.batch_size": args.batch_size,
        "training.micro_batch_size": args.micro_batch_size,
        "training.max_teacher_length": args.length, "training.max_student_length": args.length,
        "training.dtype": args.dtype, "checkpoint.enable": "false",
    }  # fmt: skip
    return [w for key, value in values.items() for w in (f"--{key}", str(value))] + args.overrides


def write_cache(words: list[str], folder: Path, scores: str) -> float:
    """Write a cache; returns the bytes of its shards over its tokens."""
    command = [sys.executable, "-m", "tokenkit", "cache-teacher", "--output", str(folder)]
    subprocess.run([*command, "--scores", scores, *words], check=True, cwd=ROOT)
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    return size / read_meta(folder)["tokens"]


def seconds_of(training: Training, step: int, device: torch.device) -> float:
    """Time of a step, that in which its batch is made included."""
    wait_for(device)
    begin = time.perf_counter()
    training(training.batch().to(device), step if step < WARM_UP else LATER + step)
    wait_for(device)
    return time.perf_counter() - begin


def compare(words: list[str], cache: Path, steps: int) -> dict[str, float]:
    """Median seconds of steps with a live and a cached teacher, in turns."""
    runs = {}
    for name, extra in (("live", []), ("cached", ["--teacher.cache", str(cache)])):
        config = load_config([*words, *extra])
        validate(config, 1)
        set_up_process(config)
        parallel = init_parallel(config) if not runs else parallel  # noqa: F821
        runs[name] = Training(config, parallel)
    times: dict[str, list[float]] = {name: [] for name in runs}
    for step in range(WARM_UP + steps):
        # Each is first as often as the other.
        for name in list(runs)[:: 1 if step % 2 else -1]:
            times[name].append(seconds_of(runs[name], step, parallel.device))
    dist.destroy_process_group()
    return {name: statistics.median(found[WARM_UP:]) for name, found in times.items()}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--quick", action="store_true", help="a tiny model, few short steps")
    add("--shape", choices=SHAPES, default="1b")
    add("--train", default="lora,full", help="of the student (default: %(default)s)")
    add("--vocabulary", type=int, default=32_000, help="tokens of each tokenizer")
    add("--steps", type=int, default=20, help="timed ones of each kind")
    add("--batch-size", type=int, default=32)
    add("--micro-batch-size", type=int, default=8)
    add("--length", type=int, default=512)
    add("--workers", type=int, default=4)
    add("--dtype", default="bfloat16")
    add("overrides", nargs="*", help="further settings, after --")
    args = parser.parse_args()
    if not torch.cuda.is_available() and args.shape == "1b":
        args.shape, args.batch_size, args.micro_batch_size, args.workers = "cpu", 8, 4, 0
        args.dtype, args.length = "float32", 256
    if args.quick:
        args.shape, args.steps, args.batch_size, args.micro_batch_size = "tiny", 4, 4, 2
        args.length, args.workers, args.dtype = 64, 0, "float32"
    return args


def main() -> None:
    args = parse_args()
    gpu = torch.cuda.is_available()
    machine = torch.cuda.get_device_name() if gpu else hardware(torch.get_num_threads())
    print(f"{machine}, torch {torch.__version__}, {args.dtype}, shape {args.shape}", flush=True)
    found: dict[str, float | int] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        words = settings(args, folder)
        for scores, key in (("float32", ""), ("bfloat16", "_bfloat16")):
            size = write_cache(words, folder / scores, scores)
            found[f"bytes_per_token{key}"] = round(size, 4)
        found["meta_bytes"] = (folder / "float32" / "meta.json").stat().st_size
        for train in args.train.split(","):
            run = [*words, "--student.train", train]
            seconds = compare(run, folder / "float32", args.steps)
            found[f"speedup_{train}"] = round(seconds["live"] / seconds["cached"], 3)
            found |= {f"seconds_{train}_{kind}": round(s, 4) for kind, s in seconds.items()}
            print(f"{train:<6} {seconds}", flush=True)
    found = {"speedup": found[f"speedup_{args.train.split(',')[0]}"], **found}
    sizes = {"batch_size": args.batch_size, "micro_batch_size": args.micro_batch_size}
    known = {"shape": args.shape, "dtype": args.dtype, "length": args.length, **sizes}
    known |= {"vocabulary": args.vocabulary, "steps": args.steps}
    print(json.dumps(found | known | {"hardware": machine, "torch": torch.__version__}))


if __name__ == "__main__":
    main()
