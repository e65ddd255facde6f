"""What CUDA's libraries are told, and when Python collects garbage."""

from __future__ import annotations

import gc
import os

import pytest
import torch

from tokenkit.config import Config
from tokenkit.training.environment import SteadyGarbage, set_up_gpu

NAMES = (
    "PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "TORCH_FR_BUFFER_SIZE",
    "TORCH_NCCL_TRACE_BUFFER_SIZE", "TORCH_FR_DUMP_TEMP_FILE", "TORCH_NCCL_DEBUG_INFO_TEMP_FILE",
    "TORCH_NCCL_DUMP_ON_TIMEOUT",
)  # fmt: skip


@pytest.fixture
def environment(monkeypatch):
    kept = {k: v for k, v in os.environ.items() if k not in NAMES}
    found: dict[str, str] = dict(kept)
    monkeypatch.setattr(os, "environ", found)
    return found


def test_a_gpu_is_set_up(environment, monkeypatch, tmp_path):
    config = Config()
    config.job.output_dir = str(tmp_path / "run")
    before = dict(environment)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    set_up_gpu(config)
    assert environment == before
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    set_up_gpu(config)
    assert {k: environment[k] for k in environment.keys() - before.keys()} == {
        "PYTORCH_ALLOC_CONF": "expandable_segments:True",
        "TORCH_FR_BUFFER_SIZE": "2000",
        "TORCH_FR_DUMP_TEMP_FILE": f"{tmp_path}/run/flight_recorder_rank_",
        "TORCH_NCCL_DUMP_ON_TIMEOUT": "1",
    }


def test_what_the_user_has_set_stays(environment, monkeypatch):
    environment |= {"PYTORCH_CUDA_ALLOC_CONF": "x", "TORCH_FR_BUFFER_SIZE": "7"}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    set_up_gpu(Config())
    assert environment["TORCH_FR_BUFFER_SIZE"] == "7"
    assert environment["PYTORCH_CUDA_ALLOC_CONF"] == "x" and "PYTORCH_ALLOC_CONF" not in environment


def test_garbage_is_collected_at_fixed_steps(monkeypatch):
    steps: list[int] = []
    try:
        garbage = SteadyGarbage(3)
        assert not gc.isenabled()
        monkeypatch.setattr(gc, "collect", lambda: steps.append(number))
        for number in range(10):
            garbage.step(number)
        assert steps == [2, 5, 8]
    finally:
        gc.enable()
        gc.unfreeze()
    SteadyGarbage(0).step(2)
    assert gc.isenabled() and steps == [2, 5, 8]
