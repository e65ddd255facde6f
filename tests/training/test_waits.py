"""A step asks the device for nothing (tests/gpu/test_waits.py: the same, on a GPU)."""

from __future__ import annotations

import pytest
import torch

from tests.training.in_process import Training
from tests.training.small_runs import read_config
from tests.training.test_whole_step import CASES
from tests.training.waiting import WaitingOps

NAMES = (
    "untied, accumulation", "LoRA, balanced, accumulation", "self tied, balanced, accumulation",
    "soft-cap", "gradients of one norm", "clipped, no conflicts", "expanded bytes",
)  # fmt: skip
LOSSES = ("uld", "dskd", "alm_side_path")
RUNS = (
    {name: CASES[name] for name in NAMES}
    | {
        "uld, aligned": "--loss.names uld --loss.weights 1 --uld.aligned true",
        "latents": "--loss.names sft,alm_latents --latents.project true",
        "lexical": f"{CASES['self']} --loss.names sft,alm_space,lexical --loss.weights 1,1,1",
        "gradnorm": "--loss.aggregation gradnorm",
        "bf16 states": "--optimizer.state_dtype bfloat16",
        "bf16 states, FSDP": "--optimizer.state_dtype bfloat16 --training.dtype bfloat16",
    }
    | {
        names: f"--loss.names {names} --loss.weights {','.join('1' for _ in names.split(','))}"
        for names in LOSSES
    }
)


@pytest.mark.parametrize("name", RUNS)
def test_a_step_waits_for_nothing(name, folder, parallel):
    training = Training(read_config(folder, f"{RUNS[name]} --optimizer.fused true"), parallel)
    training(training.batch(), 0)  # tables are moved, states of the optimizer are made
    batch = training.batch()
    with WaitingOps() as ops:
        training(batch, 1)
    assert not ops.found
    assert ops.calls["aten.mm"] > 0 and ops.calls["aten.index_select"] > 0


def test_waits_are_seen():
    x = torch.ones(3)
    with WaitingOps() as ops:
        x[x > 0].sum().item()
        torch.tensor(1.0) + x
        x.nonzero()
    assert set(ops.found) == {
        "aten.index",
        "aten._local_scalar_dense",
        "aten.lift_fresh",
        "aten.nonzero",
    }
