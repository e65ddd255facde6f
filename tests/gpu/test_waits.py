"""A step never makes the CPU wait for the GPU: torch raises where it would."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch

from tests.training.in_process import Training
from tests.training.small_runs import read_config
from tests.training.test_skipped import phases_of, spoil_loss, state_of
from tests.training.test_waits import NAMES, RUNS

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]


@contextmanager
def no_waiting():
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", [NAMES[0], "gradnorm"])
def test_a_skipped_step_changes_and_waits_for_nothing(name, dtype, folder, parallel):
    training = Training(read_config(folder, f"{RUNS[name]} --training.dtype {dtype}"), parallel)
    phases = phases_of(training, parallel)
    phases(training.batch().to(parallel.device), 0)
    before = state_of(training)
    batch = training.batch().to(parallel.device)
    hook = spoil_loss(training, float("nan"))
    with no_waiting():
        metrics = phases(batch, 1)
    hook.remove()
    after = state_of(training)
    assert metrics["same/skipped_steps"] == 1
    assert all(torch.equal(value, after[key]) for key, value in before.items())
    phases(training.batch().to(parallel.device), 2)
    assert any(not torch.equal(value, after[key]) for key, value in state_of(training).items())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", RUNS)
def test_a_step_waits_for_nothing(name, dtype, folder, parallel):
    training = Training(read_config(folder, f"{RUNS[name]} --training.dtype {dtype}"), parallel)
    training(training.batch().to(parallel.device), 0)  # what is compiled, is compiled now
    batch = training.batch().to(parallel.device)
    with no_waiting():
        metrics = training(batch, 1)
    assert torch.isfinite(metrics["loss"])
