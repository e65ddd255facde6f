"""What is counted on the meta device is what real tensors take."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from tests.launch import SPEC_A
from tests.training.small_runs import read_config
from tokenkit.planning.layout import Layout
from tokenkit.planning.memory import plan_memory, rehearsed_step
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


def test_a_context_halves_what_layers_keep(folder_of_models):
    """By hand: what a layer keeps of each token is halved, but keys and values are all there."""
    config = read_config(folder_of_models, "--training.max_student_length 64 --loss.names sft "
                         "--loss.weights 1")  # fmt: skip
    shapes = open_shapes(config)
    shape = shapes.student.hf_config
    kept = {}
    for context in (1, 2):
        for layers in (2, 4):
            shape.num_hidden_layers = layers
            layout = Layout(1, 1, 1, 8, "none", context)
            kept[context, layers] = plan_memory(config, shapes, layout, "h100").activations
    one, two = ((kept[n, 4] - kept[n, 2]) / 2 for n in (1, 2))
    tokens, queries = 8 * 64, shape.num_attention_heads * shape.head_dim
    # All heads' keys and values of this rank's two stretches: the first, and all.
    gathered = 2 * 4 * tokens * queries * (1 / 4 + 1)
    assert one / 2 < two < one / 2 + gathered


def test_a_teacher_that_reads_more_rows_needs_more(folder_of_models):
    """Its peak, not what is kept of it, grows with its rows."""
    config = read_config(folder_of_models, "--training.batch_size 16 "
                         "--training.micro_batch_size 1")  # fmt: skip
    shapes = open_shapes(config)
    layouts = [Layout(1, 1, 1, 1, "full", teacher_rows=rows) for rows in (0, 8, 16)]
    one, eight, sixteen = (rehearsed_step(config, shapes, at, "h100")[0] for at in layouts)
    assert eight.signals == pytest.approx(sixteen.signals, rel=0.1)
    assert one.teacher_peak < eight.teacher_peak < sixteen.teacher_peak
    assert sixteen.teacher_peak - eight.teacher_peak == pytest.approx(
        (eight.teacher_peak - one.teacher_peak) * 8 / 7, rel=0.1
    )
