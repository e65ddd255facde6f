"""Training on a GPU goes as on the CPU, with all that only a GPU does (``make test-gpu``)."""

from __future__ import annotations

import shutil

import pytest
import torch

from tests.launch import read_losses, train
from tests.parallelisms.test_equal_one_process import BASES, LORA, STEPS, arguments, micro
from tokenkit.training.checkpoint import step_folder

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]
COMPILE = ["--compile.enable", "true"]
ONE_WIDTH = ["--compile.dynamic", "false", "--data.pad_multiple", "128"]
CHECKPOINT = ["--activation_checkpoint.mode"]
BF16 = ["--training.dtype", "bfloat16"]

# (base, overrides): what must train like the base does.
LAYOUTS: dict[str, tuple[str, list[str]]] = {
    "accumulate 2": ("full", micro(4)),
    "worker": ("full", ["--data.num_workers", "1"]),
    "checkpoint ops": ("full", [*CHECKPOINT, "selective_ops"]),
    "checkpoint full": ("lora", [*CHECKPOINT, "full"]),
    "compile": ("approx", COMPILE),
    # Each layer has six graphs: the last one and others, of teacher, student and its probe.
    "compile, checkpoint ops": (
        "lora",
        [*COMPILE, *ONE_WIDTH, *CHECKPOINT, "selective_ops", *micro(4)],
    ),
}


@pytest.mark.parametrize("base", BASES)
def test_equals_cpu(base, base_arguments, tiny_llama, tmp_path):
    """In fp32. The first steps are the same; then differences in rounding grow in Adam."""
    losses = []
    for gpus in (False, True):
        folder = tmp_path / str(gpus) / "run"
        folder.parent.mkdir()
        argv = arguments(base_arguments, tiny_llama, base, folder)
        train(argv, 1, folder.parent / "log", gpus=gpus)
        losses.append(read_losses(folder))
    cpu, gpu = losses
    assert len(gpu) == STEPS
    assert gpu[:3] == pytest.approx(cpu[:3], rel=1e-4)
    assert gpu == pytest.approx(cpu, rel=5e-3)


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts_equal(name, base_arguments, tiny_llama, tmp_path):
    base, overrides = LAYOUTS[name]
    losses = []
    for number, extra in enumerate(([], overrides)):
        folder = tmp_path / str(number)
        argv = [*arguments(base_arguments, tiny_llama, base, folder), *extra]
        train(argv, 1, tmp_path / f"log{number}", gpus=True)
        losses.append(read_losses(folder))
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


@pytest.mark.parametrize("base", ["full", "lora", "states approx", "zett", "projector untied"])
def test_bfloat16_stays_close(base, base_arguments, tiny_llama, tmp_path):
    """One rank in bf16 goes through FSDP and NCCL."""
    losses = []
    for number, extra in enumerate(([], [*BF16, *micro(4)])):
        folder = tmp_path / str(number)
        argv = [*arguments(base_arguments, tiny_llama, base, folder), *extra]
        train(argv, 1, tmp_path / f"log{number}", gpus=True)
        losses.append(read_losses(folder))
    assert losses[1] == pytest.approx(losses[0], rel=0.05, abs=1e-3)


@pytest.mark.parametrize("extra", [[], [*LORA, *BF16]], ids=["fp32", "LoRA, bf16"])
def test_resumed_run_equals_uninterrupted_one(extra, base_arguments, tiny_llama, tmp_path):
    # Steps 5 to 8 are taken twice: once straight on, once from the checkpoint of step 4.
    saving = ["--checkpoint.enable", "true", "--checkpoint.interval", "4"]
    exact = ["--training.deterministic", "true"]
    argv = [*base_arguments, *extra, *saving, *exact]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train([*argv, "--training.steps", "8", "--job.output_dir", str(whole)], 1, tmp_path / "log",
          gpus=True)  # fmt: skip
    argv = [*argv, "--training.steps", "8", "--job.output_dir", str(parts)]
    train(argv, 1, tmp_path / "log", gpus=True)
    shutil.rmtree(step_folder(parts / "checkpoints", 8))
    train(argv, 1, tmp_path / "log", gpus=True)
    assert len(read_losses(whole)) == 8 and read_losses(parts) == read_losses(whole)
