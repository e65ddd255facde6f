"""The settings that ``tokenkit transfer`` stands for: a shipped recipe, fitted to the model.

What was measured is on a model of 135M parameters and two CPU cores (see the recipe). From there,
learning rates go down with the model's width, and on a GPU rows and steps are larger.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenkit.config import Config, load_config, whole_value
from tokenkit.config.load import to_toml
from tokenkit.tokenizers import parse_spec

RECIPE, BYTE_RECIPE = "smollm2_to_qwen2", "smollm2_to_byte"
MEASURED_WIDTH = 576  # hidden size of the model that the recipes were tried on
OWN_SHARE = 0.3  # of what is read, texts by the model itself, where other data is given
MOST_OWN = 480  # they take time to sample, so they are read more than once
HELD_OUT = 48  # texts
BYTES_A_TOKEN = 4


@dataclass(frozen=True)
class Amount:
    """How much a transfer reads.

    Attributes:
        length: tokens a row of the model's own tokenizer.
        micro_batch: rows at once.
    """

    steps: int
    batch_size: int
    length: int
    micro_batch: int


ON_CPU, ON_GPU = Amount(180, 8, 128, 8), Amount(1000, 64, 512, 8)


def amount_of(args: Any, gpu: bool) -> Amount:
    """What the options ask for; what they leave open by the machine."""
    usual = ON_GPU if gpu else ON_CPU
    batch = args.batch_size or usual.batch_size
    micro = next(n for n in range(min(usual.micro_batch, batch), 0, -1) if batch % n == 0)
    return Amount(args.steps or usual.steps, batch, args.length or usual.length, micro)


def learning_rate(measured: float, width: int) -> float:
    """The recipe's, down by the width, to two digits."""
    return float(f"{measured * min(1.0, MEASURED_WIDTH / width):.1e}")


def own_texts(args: Any, amount: Any) -> int:
    """How many texts of the model's own are trained on.

    Args:
        amount: has ``steps`` of ``batch_size`` rows.
    """
    if args.own_texts is not None:
        return args.own_texts
    share = OWN_SHARE if args.data else 1.0
    return min(MOST_OWN, max(1, round(share * amount.steps * amount.batch_size)))


def compute_dtype(gpu: bool) -> str:
    """bfloat16, but fp32 on CPUs that would only imitate it."""
    import torch

    return "bfloat16" if gpu or torch.cpu._is_avx512_bf16_supported() else "float32"


def settings(
    args: Any, folder: Path, width: int, amount: Amount, more: list[str], gpu: bool
) -> Config:
    """All settings of the run.

    Args:
        args: of the command.
        folder: what is made lies there.
        width: of the model's hidden states.
        more: further ``--section.key value`` arguments, which win.

    Raises:
        ConfigError: if one of these is wrong.
    """
    target = whole_value(args.to)
    to_bytes = parse_spec(target).conversion == "byte"
    recipe = BYTE_RECIPE if to_bytes else RECIPE
    lr = load_config(["--job.config_file", recipe]).optimizer.lr
    own, given = own_texts(args, amount), whole_value(args.data)
    weights: list[float] = []
    if own and given:
        weights = [*[round((1 - OWN_SHARE) / len(given), 4)] * len(given), OWN_SHARE]
    if own:
        given = [*given, str(folder / "texts" / "own.jsonl")]
    validation = whole_value(args.validation)
    values: dict[str, Any] = {
        "job.name": folder.name,
        "job.output_dir": str(folder / "run"),
        "student.model": whole_value(args.model),
        "student.tokenizer": whole_value(args.tokenizer or args.model),
        "student.target_tokenizer": target,
        "data.train": given,
        "data.weights": weights,
        "data.validation": validation or [str(folder / "texts" / "held_out.jsonl")],
        "optimizer.lr": args.lr if args.lr is not None else learning_rate(lr, width),
        "lr_scheduler.warmup_steps": min(8, amount.steps // 2),
        "training.steps": amount.steps,
        "training.batch_size": amount.batch_size,
        "training.micro_batch_size": amount.micro_batch,
        "training.max_teacher_length": amount.length,
        "training.max_student_length": amount.length * (BYTES_A_TOKEN if to_bytes else 1),
        "training.dtype": compute_dtype(gpu),
        "checkpoint.interval": max(1, -(-amount.steps // 3)),
        "checkpoint.keep_latest_k": 1,
        "checkpoint.last_save_model_only": True,  # it is exported; the moments are twice its size
        "eval.interval": amount.steps,
        "eval.max_documents": HELD_OUT,
    }
    if not to_bytes:
        values["lora.targets"] = ["all-linear"]
    arguments = [
        f"--{name}={value if isinstance(value, str) else to_toml(value)}"
        for name, value in values.items()
    ]
    config = load_config(["--job.config_file", recipe, *arguments, *more])
    config.job.config_file = ""  # all of it is here
    return config
