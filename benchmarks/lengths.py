"""Rows dealt to micro-batches by length, beside rows in order: real tokens a second.

    python benchmarks/lengths.py [--quick] [--steps 8]

A Llama of 8 layers trains on sft and alm_unconstrained, with adapters, on chats whose lengths are
drawn as those of public chat data are (log-normal, a few cut at the limit). Both sides are in one
process and take the same steps in turns: the same rows, so the same tokens. The last line is JSON:
``speedup`` is the median over steps of the time in order by the time dealt by length;
``padding`` the share of the student's places without a token on each side; ``same_losses`` the
largest relative difference of the two sides' losses.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402

from benchmarks.common import QWEN_WORDS, hardware, library_text, train_bpe  # noqa: E402
from tests.training.in_process import Training  # noqa: E402
from tokenkit.config import load_config, validate  # noqa: E402
from tokenkit.parallelisms import init_parallel  # noqa: E402
from tokenkit.training.environment import set_up_process  # noqa: E402
from tokenkit.training.metrics import padding_shares  # noqa: E402

DEALS = ("order", "length")
LENGTH, MEDIAN, SIGMA = 512, 150, 0.9  # in tokens; of about four bytes
WARM_UP = 1


def write_chats(path: Path, text: str, count: int) -> None:
    generator = np.random.default_rng(0)
    tokens = generator.lognormal(np.log(MEDIAN), SIGMA, count).clip(8, 4 * LENGTH)
    begins = generator.integers(0, len(text) - 16 * LENGTH, count)
    with path.open("w") as file:
        for begin, size in zip(begins.tolist(), (4 * tokens).astype(int).tolist(), strict=True):
            asked, answered = text[begin : begin + size // 4], text[begin + size // 4 :]
            chat = [
                {"role": "user", "content": asked},
                {"role": "assistant", "content": answered[: size - size // 4]},
            ]
            file.write(json.dumps({"messages": chat}) + "\n")


def settings(args: argparse.Namespace, folder: Path) -> list[str]:
    """Command line of both sides but for ``data.deal``; its files are written into ``folder``."""
    from transformers import LlamaConfig

    text = library_text(2_000_000)
    specs = [
        train_bpe(folder / "a", text, 2000) + ":source=Llama3",
        train_bpe(folder / "b", text, 2000, QWEN_WORDS) + ":source=Qwen2:target=Llama3",
    ]
    width = 64 if args.quick else args.width
    LlamaConfig(
        hidden_size=width, intermediate_size=11 * width // 4, num_hidden_layers=8,
        num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True,
    ).save_pretrained(folder / "model")  # fmt: skip
    write_chats(folder / "chats.jsonl", text, 2000)
    values = {
        "student.model": folder / "model", "student.init": "random", "student.train": "lora",
        "student.tokenizer": specs[0], "student.target_tokenizer": specs[1], "lora.rank": 16,
        "loss.names": "sft,alm_unconstrained", "data.train": folder / "chats.jsonl",
        "training.steps": WARM_UP + args.steps, "training.batch_size": args.batch_size,
        "training.micro_batch_size": args.micro_batch_size,
        "training.max_teacher_length": LENGTH, "training.max_student_length": LENGTH,
        "checkpoint.enable": "false",
    }  # fmt: skip
    return [word for key, value in values.items() for word in (f"--{key}", str(value))]


def measure(args: argparse.Namespace, folder: Path) -> dict:
    """Both sides' steps, in turns."""
    given = settings(args, folder)
    configs = {deal: load_config([*given, "--data.deal", deal]) for deal in DEALS}
    for config in configs.values():
        validate(config, 1)
    set_up_process(configs["order"])
    parallel = init_parallel(configs["order"])
    sides = {deal: Training(config, parallel) for deal, config in configs.items()}
    seconds: dict[str, list[float]] = {deal: [] for deal in DEALS}
    losses: dict[str, list[float]] = {deal: [] for deal in DEALS}
    counts = {deal: {"student_tokens": 0, "student_places": 0} for deal in DEALS}
    for step in range(WARM_UP + args.steps):
        for deal in DEALS if step % 2 else reversed(DEALS):
            batch = sides[deal].batch().to(parallel.device)
            begin = time.perf_counter()
            loss = float(sides[deal](batch, step)["loss"])  # waits for the device
            took = time.perf_counter() - begin
            losses[deal].append(loss)
            if step >= WARM_UP:
                seconds[deal].append(took)
                for name in counts[deal]:
                    counts[deal][name] += batch.stats[name]
    dist.destroy_process_group()
    assert counts["order"]["student_tokens"] == counts["length"]["student_tokens"]
    ratios = [a / b for a, b in zip(*(seconds[deal] for deal in DEALS), strict=True)]
    tokens = counts["order"]["student_tokens"]
    pairs = zip(*losses.values(), strict=True)
    return {
        "speedup": round(statistics.median(ratios), 3),
        "tokens_per_second": {deal: round(tokens / sum(seconds[deal])) for deal in DEALS},
        "padding": {
            deal: round(padding_shares(counts[deal])["padding/student"], 3) for deal in DEALS
        },
        "same_losses": max(abs(a - b) / abs(a) for a, b in pairs),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a narrower model, three steps")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--micro-batch-size", type=int, default=8)
    args = parser.parse_args()
    if args.quick:
        args.steps = 3
    with tempfile.TemporaryDirectory() as folder:
        result = measure(args, Path(folder))
    gpu = torch.cuda.is_available()
    machine = torch.cuda.get_device_name() if gpu else hardware(torch.get_num_threads())
    for deal in DEALS:
        rate, padding = result["tokens_per_second"][deal], result["padding"][deal]
        print(f"{deal:<8} {rate:>8,} tokens/s, {padding:.1%} padding")
    sizes = {"batch_size": args.batch_size, "micro_batch_size": args.micro_batch_size}
    print(json.dumps(result | sizes | {"hardware": machine, "torch": torch.__version__}))


if __name__ == "__main__":
    main()
