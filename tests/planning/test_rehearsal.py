"""What is counted on the meta device is what real tensors take."""

from __future__ import annotations

import dataclasses

import torch
from torch import nn

from tests.launch import SPEC_A
from tests.training.small_runs import read_config
from tokenkit.planning.layout import Layout
from tokenkit.planning.memory import plan_memory
from tokenkit.planning.models import open_shapes
from tokenkit.planning.rehearsal import Allocations


def test_live_and_peak():
    with Allocations() as memory:
        a = torch.empty(1000, device="meta")
        b = a.view(10, 100) + 1
        assert memory.live == 8000
        del a
        assert memory.live == 4000
        b.mul_(2)
        c = b[3:]
        del b
        assert memory.live == 4000  # a view keeps it all
        del c
    assert memory.live == 0 and memory.peak == 8000


def test_a_network_by_hand():
    """Two layers without bias, 8 rows: inputs and the ReLU's output are kept, then gradients."""
    net = nn.Sequential(nn.Linear(64, 32, bias=False), nn.ReLU(), nn.Linear(32, 16, bias=False))
    net = net.to("meta")
    x = torch.empty(8, 64, device="meta")
    with Allocations() as memory:
        memory.leave_out(iter([x, *net.parameters()]))
        y = net(x)
        assert memory.live == 4 * 8 * (32 + 16)  # the first layer's output went with the ReLU
        y.sum().backward()
    assert memory.live == 4 * (8 * 16 + 64 * 32 + 32 * 16)
    assert net[0].weight.grad is not None


def test_more_ranks_hold_less(folder_of_models):
    sharded = "--parallelism.frozen sharded --training.accumulate sharded"
    rows = "--training.batch_size 16 --training.micro_batch_size 2"
    config = read_config(folder_of_models, f"{rows} {sharded}")
    shapes = open_shapes(config)
    found = [
        plan_memory(config, shapes, Layout(1, shard, 1, 2, "none"), "h100") for shard in (2, 4, 8)
    ]
    for one, other in zip(found, found[1:], strict=False):
        for part in ("student", "teacher", "optimizer"):
            assert getattr(one, part) == 2 * getattr(other, part)
        assert one.activations >= other.activations
        assert dataclasses.replace(one).total == sum(vars(one).values())


def test_tensor_parallel_halves_the_layers(folder_of_models):
    config = read_config(folder_of_models, f"--teacher.model '' --teacher.tokenizer {SPEC_A} "
                         f"--student.tokenizer {SPEC_A} --student.model untied_a")  # fmt: skip
    shapes = open_shapes(config)
    one, two = (
        plan_memory(config, shapes, Layout(1, 1, tp, 8, "none"), "cpu").student for tp in (1, 2)
    )
    assert 0.5 <= two / one < 0.52  # norms are whole on both


def test_recomputing_keeps_less(folder_of_models):
    config = read_config(folder_of_models, "")
    shapes = open_shapes(config)
    kept = {
        mode: plan_memory(config, shapes, Layout(1, 1, 1, 8, mode), "cpu").activations
        for mode in ("none", "selective_ops", "full")
    }
    assert kept["full"] < kept["selective_ops"] < kept["none"]
