"""What balancing losses by their gradients costs: a training step against the plain weighted sum.

    python benchmarks/gradmag.py [--quick] [--ranks 2]

A 12-layer Llama trains on sft and alm_unconstrained with ``loss.aggregation`` empty and
``approx_gradmag_preserve_mag`` in turn, in one process and under FSDP2 on ``--ranks`` processes.
The last line is JSON: ``time_ratio`` is balanced / plain for the worse of the two layouts, by the
fastest step of each: what else the machine does lengthens steps, and differs between runs.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.common import QWEN_WORDS, hardware, library_text, train_bpe  # noqa: E402

AGGREGATIONS = {"plain": "", "balanced": "approx_gradmag_preserve_mag"}
ROWS, LENGTH, VOCAB = 8, 256, 8192


def write_inputs(folder: Path) -> list[str]:
    """A model's config.json, two tokenizers and texts; returns the arguments that name them."""
    from transformers import LlamaConfig

    text = library_text(4_000_000)
    train_bpe(folder / "a", text[:2_000_000], VOCAB)
    train_bpe(folder / "b", text[2_000_000:], VOCAB, QWEN_WORDS)
    LlamaConfig(
        hidden_size=256, intermediate_size=704, num_hidden_layers=12, num_attention_heads=8,
        num_key_value_heads=8, max_position_embeddings=LENGTH, tie_word_embeddings=True,
    ).save_pretrained(folder / "model")  # fmt: skip
    pieces = [text[k : k + 6 * LENGTH] for k in range(0, 1_000_000, 6 * LENGTH)]
    rows = "".join(json.dumps({"text": piece}) + "\n" for piece in pieces)
    (folder / "train.jsonl").write_text(rows)
    return [
        f"--student.model={folder / 'model'}", "--student.init=random",
        f"--student.tokenizer={folder / 'a'}:source=GPT2",
        f"--student.target_tokenizer={folder / 'b'}:source=GPT2",
        f"--data.train={folder / 'train.jsonl'}", "--loss.names=sft,alm_unconstrained",
        f"--training.batch_size={ROWS}", f"--training.max_teacher_length={LENGTH}",
        f"--training.max_student_length={LENGTH}", "--checkpoint.enable=false",
        "--metrics.log_interval=1", "--metrics.tensorboard=false", "--metrics.progress=false",
        "--loss.balance_interval=1",
    ]  # fmt: skip


def tokens_per_second(arguments: list[str], ranks: int, output: Path) -> float:
    """Speed of the fastest step of one run, the first three left out."""
    micro = f"--training.micro_batch_size={ROWS // ranks}"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone",
               f"--nproc-per-node={ranks}", str(ROOT / "train.py"), *arguments, micro,
               f"--job.output_dir={output}"]  # fmt: skip
    threads = str(max(1, (os.cpu_count() or 1) // ranks))
    environment = os.environ | {"OMP_NUM_THREADS": threads, "HF_HUB_OFFLINE": "1"}
    subprocess.run(command, check=True, capture_output=True, env=environment, cwd=ROOT)
    lines = (output / "metrics.jsonl").read_text().splitlines()
    speeds = [json.loads(line)["tokens_per_second"] for line in lines]
    return max(speeds[3:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one run of each instead of three")
    parser.add_argument("--ranks", type=int, default=2, help="processes under FSDP2")
    args = parser.parse_args()
    steps = f"--training.steps={10 if args.quick else 16}"
    ratios = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        arguments = [*write_inputs(folder), steps]
        for ranks in (1, args.ranks):
            best = dict.fromkeys(AGGREGATIONS, 0.0)
            for repeat in range(1 if args.quick else 3):
                for kind, aggregation in AGGREGATIONS.items():
                    output = folder / f"run-{ranks}-{kind}-{repeat}"
                    chosen = [*arguments, f"--loss.aggregation={aggregation}"]
                    best[kind] = max(best[kind], tokens_per_second(chosen, ranks, output))
            ratios[ranks] = best["plain"] / best["balanced"]
            speeds = ", ".join(f"{kind} {speed:,.0f} tokens/s" for kind, speed in best.items())
            print(f"{ranks} process{'es (FSDP2)' if ranks > 1 else ''}: {speeds}")
    machine = hardware(os.cpu_count() or 1)
    result = {"time_ratio": round(max(ratios.values()), 3), "hardware": machine}
    print(json.dumps(result | {f"ranks_{k}": round(v, 3) for k, v in ratios.items()}))


if __name__ == "__main__":
    main()
