"""A step never makes the CPU wait for the GPU: torch raises where it would.

The losses that need pairs of positions (kd, uld, dskd, alm_latents, alm_side_path, mined) find them
on the device and wait for their number; they are not among the cases.
"""

from __future__ import annotations

import pytest
import torch

from tests.training.in_process import Training
from tests.training.small_runs import read_config
from tests.training.test_whole_step import CASES

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]
NAMES = (
    "untied, accumulation", "LoRA, balanced, accumulation", "self tied, balanced, accumulation",
    "gradients of one norm", "clipped, no conflicts",
)  # fmt: skip
LOSSES = ("sft,alm_space,lexical",)
RUNS = {name: CASES[name] for name in NAMES} | {
    losses: f"--loss.names {losses} --loss.weights {','.join('1' * (losses.count(',') + 1))}"
    for losses in LOSSES
}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", RUNS)
def test_a_step_waits_for_nothing(name, dtype, folder, parallel):
    training = Training(read_config(folder, f"{RUNS[name]} --training.dtype {dtype}"), parallel)
    training(training.batch().to(parallel.device), 0)  # what is compiled, is compiled now
    batch = training.batch().to(parallel.device)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        metrics = training(batch, 1)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.isfinite(metrics["loss"])
