"""Norms that are not measured in every step, and what a step then computes."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.training.in_process import Training
from tests.training.small_runs import read_config
from tests.training.test_whole_step import FOUR
from tokenkit.balance import build_balance

BALANCED = "--loss.aggregation approx_gradmag_preserve_mag"
MATMULS = {"aten.mm", "aten.addmm", "aten.bmm"}


class VocabularyMatmuls(TorchDispatchMode):
    """Counts matmuls with a matrix of so many rows."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.rows, self.count = rows, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if str(func.overloadpacket) in MATMULS:
            self.count += any(self.rows in x.shape for x in args if isinstance(x, torch.Tensor))
        return func(*args, **(kwargs or {}))


@pytest.fixture
def training(folder, parallel):
    return Training(read_config(folder, f"{BALANCED} {FOUR}"), parallel)


def weights_of(metrics):
    return {name: metrics[f"same/weight/{name}"] for name in ("sft", "alm_unconstrained")}


def test_due(folder, parallel):
    config = read_config(folder, BALANCED)
    balance = build_balance(config, parallel.device)
    assert [s for s in range(42) if balance.due(s)] == [0, 1, 2, 4, 8, 10, 16, 20, 30, 32, 40]
    config.loss.balance_interval = 1
    assert all(map(build_balance(config, parallel.device).due, range(20)))
    config.loss.aggregation, config.loss.balance_interval = "gradnorm", 10
    assert all(map(build_balance(config, parallel.device).due, range(20)))


def test_the_last_norms_serve_in_between(training, folder, parallel):
    exact = Training(read_config(folder, f"{BALANCED} {FOUR} --loss.balance_interval 1"), parallel)
    seen = {}
    for step in range(7):
        batch = training.batch()
        assert torch.equal(
            batch.micro_batches[0].student.ids, exact.batch().micro_batches[0].student.ids
        )
        if step in (2, 3):  # from the same parameters
            exact.student.load_state_dict(training.student.state_dict())
            expected = weights_of(exact(batch, step))
        seen[step] = weights_of(training(batch, step))
        if step == 2:
            assert seen[2] == expected
        elif step == 3:
            assert seen[3] != expected
    assert seen[3] == seen[2] != seen[1] and seen[6] == seen[5] == seen[4] != seen[3]


def test_a_step_in_between_does_nothing_twice(training):
    vocabulary = training.student.vocabulary
    forwards = Counter()
    training.student.register_forward_pre_hook(lambda *_: forwards.update(["student"]))
    counts = {}
    for step in range(5):
        batch = training.batch()
        forwards.clear()
        with VocabularyMatmuls(vocabulary.valid_vocab) as matmuls:
            training(batch, step)
        micro_batches = len(batch.micro_batches)
        counts[step] = forwards["student"] / micro_batches, matmuls.count / micro_batches
    # Measured before: scores, and both directions. Then scores, and backward scores again, hidden
    # states, and matrix.
    assert counts[3] == (1, 4)
    assert counts[2] == counts[4] == (2, 7)
