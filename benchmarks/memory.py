"""Peak memory of a step as ``tokenkit plan`` predicts it, beside what it is.

    python benchmarks/memory.py [--cases full,lora] [--quick]

Each case trains a few steps of train.py's components in a process of its own. Measured is
``torch.cuda.max_memory_allocated`` on a GPU; on a CPU it is the process's peak of resident memory
during steps, less what it had before the models were built and pages of files, with an allocator
that gives back what is freed. The last line is JSON: for each case ``predicted`` and ``measured``
in MB and ``error`` (of the prediction), and ``worst``.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import torch.distributed as dist
from transformers import AutoConfig, AutoModelForCausalLM

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.common import hardware, in_own_process, leave  # noqa: E402
from tests.launch import SPEC_A, SPEC_B, free_port  # noqa: E402
from tests.training.in_process import Training  # noqa: E402
from tokenkit.config import load_config, validate  # noqa: E402
from tokenkit.parallelisms import init_parallel  # noqa: E402
from tokenkit.planning.layout import Layout  # noqa: E402
from tokenkit.planning.memory import plan_memory  # noqa: E402
from tokenkit.planning.models import open_shapes  # noqa: E402
from tokenkit.training.environment import set_up_process  # noqa: E402

STEPS = 1
# glibc keeps freed memory for later; so that the peak is what was in use, it may not.
ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": "524288",
    "MALLOC_TRIM_THRESHOLD_": "0",
    "MALLOC_TOP_PAD_": "0",
    "MALLOC_ARENA_MAX": "1",
}
SMALL = {"hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 6,
         "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 64}  # fmt: skip
LARGE = {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
         "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64}  # fmt: skip
BALANCED = {"loss.aggregation": "approx_gradmag_preserve_mag"}
LORA = {"student.train": "lora", "lora.rank": 64, **BALANCED}
FULL = {"activation_checkpoint.mode": "full"}
WIDE = {"student.pad_vocab_multiple": 16_384}
SELECTIVE = {"activation_checkpoint.mode": "selective_ops"}
# Of two ranks, whose weights are cut and large beside what is kept for backward.
CUT = {"training.micro_batch_size": 4, "parallelism.frozen": "sharded"}
DEEP = {"num_hidden_layers": 12, "intermediate_size": 2048}
# Overrides, and what of the model's config is different.
CASES: dict[str, tuple[dict, dict]] = {
    "full": ({}, {}),
    "lora": (LORA, {}),
    "selective": ({**LORA, **SELECTIVE}, {}),
    "recompute": ({**FULL, **BALANCED}, {}),
    "untied": ({**FULL, **WIDE}, {"tie_word_embeddings": False}),
    "tied": ({**FULL, **WIDE}, {}),
    "accumulation": ({**LORA, "training.batch_size": 16}, {}),
    "bf16 moments": ({**FULL, **WIDE, "optimizer.state_dtype": "bfloat16"},
                     {"tie_word_embeddings": False}),
    "bf16": ({"training.dtype": "bfloat16", **BALANCED, **SELECTIVE}, {}),
    "sharded": (CUT, DEEP),
    "kept": ({**CUT, "parallelism.reshard_after_forward": "false"}, DEEP),
    "ahead": ({**CUT, "parallelism.prefetch_layers": 3}, DEEP),
    "context": (
        {**CUT, "training.micro_batch_size": 8, "parallelism.context_parallel_degree": 2},
        {},
    ),
    "teacher": (
        {
            **CUT,
            "teacher.parallelism.tensor_parallel_degree": 2,
            "training.batch_size": 32,
            "teacher.micro_batch_size": 16,
        },
        DEEP,
    ),
}  # fmt: skip
RANKS = dict.fromkeys(("sharded", "kept", "ahead", "context", "teacher"), 2)
ON_CPU = ("full", "lora", "selective", "recompute", "untied", "tied", "accumulation", *RANKS)
ON_CUDA = ("full", "lora", "selective", "recompute", "accumulation")


def settings(case: str, folder: Path, quick: bool) -> list[str]:
    """Command line of the run; its files are written into ``folder``."""
    overrides, changes = CASES[case]
    gpu = torch.cuda.is_available() and not quick
    shape = {"tie_word_embeddings": True, "vocab_size": 1536, **(LARGE if gpu else SMALL)}
    if gpu:
        shape["vocab_size"] = 128_256
    AutoConfig.for_model("llama", **{**shape, **changes}).save_pretrained(folder / "model")
    if case == "teacher":
        overrides = {
            **overrides, "teacher.model": folder / "teacher", "teacher.tokenizer": SPEC_A,
        }  # fmt: skip
        teacher = AutoConfig.for_model("llama", **{**shape, **changes})
        AutoModelForCausalLM.from_config(teacher).save_pretrained(folder / "teacher")
    text = (ROOT / "README.md").read_text()
    with (folder / "rows.jsonl").open("w") as file:
        for _ in range(64):
            file.write(json.dumps({"text": text}) + "\n")
    length = 512 if gpu else 192
    values = {
        "student.model": folder / "model", "student.init": "random",
        "student.tokenizer": SPEC_A, "student.target_tokenizer": SPEC_B,
        "student.embedding_init": "random", "loss.names": "sft,alm_unconstrained",
        "data.train": folder / "rows.jsonl", "training.steps": STEPS + 1,
        "training.batch_size": 8, "training.micro_batch_size": 8,
        "training.max_teacher_length": length, "training.max_student_length": length,
        "checkpoint.enable": "false", "training.dtype": "bfloat16" if gpu else "float32",
        **overrides,
    }  # fmt: skip
    return [word for key, value in values.items() for word in (f"--{key}", str(value))]


def resident() -> dict[str, int]:
    """What the kernel says of this process, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    known = (line.partition(":") for line in lines if line.startswith(("Rss", "VmHWM")))
    return {name: int(value.split()[0]) * 1024 for name, _, value in known}


def measure(case: str, folder: Path, quick: bool) -> dict[str, float]:
    """Predict, then train some steps."""
    config = load_config(settings(case, folder, quick))
    validate(config, RANKS.get(case, 1))
    set_up_process(config)
    parallel = init_parallel(config)
    kind = parallel.device.type
    plan = plan_memory(config, open_shapes(config), Layout.of(config, RANKS.get(case, 1)), kind)
    torch.ones(64, 64) @ torch.ones(64, 64)
    gc.collect()
    before = resident()["RssAnon"]
    training = Training(config, parallel, keep_gradients=False)
    for step in range(STEPS + 1):
        if step == 1:
            gc.collect()
            if kind == "cuda":
                torch.cuda.reset_peak_memory_stats()
            else:
                Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
        training(training.batch().to(parallel.device), step)
    if kind == "cuda":
        peak = torch.cuda.max_memory_allocated()
    else:
        now = resident()
        peak = now["VmHWM"] - now["RssFile"] - now["RssShmem"] - before
    dist.destroy_process_group()
    parts = {name: round(value / 1e6, 1) for name, value in plan.parts().items()}
    found = {"predicted": plan.allocated / 1e6, "measured": peak / 1e6}
    error = found["predicted"] / found["measured"] - 1
    return {**{k: round(v, 1) for k, v in found.items()}, "error": round(error, 4), **parts}


def run_case(case: str, quick: bool = False) -> dict[str, float]:
    """A case in a process of its own, whose allocator gives back what is freed.

    Raises:
        RuntimeError: if it fails.
    """
    words = ["--case", case, *(["--quick"] if quick else [])]
    allocator = {} if torch.cuda.is_available() else ALLOCATOR
    ranks = RANKS.get(case, 1)
    if ranks == 1:
        return in_own_process(__file__, words, allocator)
    place = {
        "WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()),
        "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **allocator,
    }  # fmt: skip
    others = [
        subprocess.Popen(
            [sys.executable, __file__, *words, "--result", os.devnull],
            env=os.environ | place | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(1, ranks)
    ]
    try:
        return in_own_process(__file__, words, place | {"RANK": "0", "LOCAL_RANK": "0"})
    finally:
        for other in others:
            other.kill()
            other.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", default="", help=f"of {', '.join(CASES)}")
    parser.add_argument("--quick", action="store_true", help="small models on a GPU, too")
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    parser.add_argument("--result", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.case:
        with tempfile.TemporaryDirectory() as folder:
            result = measure(args.case, Path(folder), args.quick)
        leave(args.result, result)
    gpu = torch.cuda.is_available()
    machine = torch.cuda.get_device_name() if gpu else hardware(torch.get_num_threads())
    print(f"{machine}, torch {torch.__version__}; MB")
    results = {}
    for case in args.cases.split(",") if args.cases else ON_CUDA if gpu else ON_CPU:
        results[case] = found = run_case(case, args.quick)
        print(
            f"{case:<14} predicted {found['predicted']:>9,.0f}  measured {found['measured']:>9,.0f}"
            f"  {found['error']:+.1%}",
            flush=True,
        )
    worst = max(abs(found["error"]) for found in results.values())
    print(json.dumps(results | {"worst": worst, "hardware": machine, "torch": torch.__version__}))


if __name__ == "__main__":
    main()
