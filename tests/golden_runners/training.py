"""Golden cases of the training room."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from tests.golden_runners.losses import check, load_arrays
from tokenkit.models.lora import merge_lora
from tokenkit.training.lr_schedule import learning_rate


def run_lr_schedule(folder: Path, case: dict) -> None:
    expected = load_arrays(folder, case)["out.lr"].numpy()
    ours = [learning_rate(step, **case["args"]) for step in range(len(expected))]
    # optax computes in fp32, so values near the end of a decay carry its rounding.
    np.testing.assert_allclose(ours, expected, rtol=case["rtol"], atol=1e-6 * max(expected))


def run_lora(folder: Path, case: dict) -> None:
    a = load_arrays(folder, case)
    weight, low_a, low_b = (a[f"in.{name}"] for name in ("weight", "a", "b"))
    check(case, "merged", merge_lora(weight, low_a, low_b, **case["args"]), a["out.merged"])
    assert torch.equal(merge_lora(weight, low_a, torch.zeros_like(low_b), **case["args"]), weight)


RUNNERS = {"lr_schedule": run_lr_schedule, "lora": run_lora}
