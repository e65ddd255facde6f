"""Split layers compute what transformers computes, with two collectives a layer and direction."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor.debug import CommDebugMode
from torch.testing._internal.distributed.fake_pg import FakeStore

from tests.launch import train
from tests.models.tiny import save_tiny
from tests.parallelisms.against_transformers import split_model

FAMILIES = ("llama", "qwen2", "qwen3", "mistral", "gemma2", "gemma3_text")
BIASES = {"llama": {"attention_bias": True, "mlp_bias": True}}  # some of them behind a sum


def test_equal_transformers(tmp_path):
    for family in FAMILIES:
        save_tiny(tmp_path / "models" / family, family, **BIASES.get(family, {}))
    program = "tests.parallelisms.against_transformers"
    train([str(tmp_path / "models")], 2, tmp_path / "log", program=program)


@pytest.fixture
def mesh():
    """Two ranks, of which one is here; what the other would send is left out."""
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    yield init_device_mesh("cpu", (2,), mesh_dim_names=("tp",))
    dist.destroy_process_group()


def collectives(model, backward: bool) -> Counter:
    """Messages of a forward pass and, apart, of the backward pass that follows."""
    embeddings = torch.randn(2, 16, 32).requires_grad_()
    with CommDebugMode() as forward:
        hidden = model.run_backbone(embeddings)
    with CommDebugMode() as back:
        hidden.sum().backward()
    found = (back if backward else forward).get_comm_counts()
    return Counter({str(op).rpartition(".")[2].strip("_"): n for op, n in found.items()})


@pytest.mark.parametrize("lora", [False, True])
def test_two_all_reduces_a_layer_and_direction(lora, mesh, tmp_path):
    save_tiny(tmp_path / "m", "llama", num_hidden_layers=3)
    model = split_model(tmp_path / "m", mesh, "tensor", lora)
    assert collectives(model, backward=False) == {"allreduce": 2 * 3}
    # Adapters: their whole factors' gradients are summed in one (small) message a layer.
    assert collectives(model, backward=True) == {"allreduce": (2 + lora) * 3}


def test_sequence_parallel_gathers_and_scatters(mesh, tmp_path):
    save_tiny(tmp_path / "m", "llama", num_hidden_layers=3)
    model = split_model(tmp_path / "m", mesh, "sequence", False)
    # Both ends: tokens are split without a message and joined again, and back the same way.
    blocks = {"allgather_base": 2 * 3 + 1, "reduce_scatter_base": 2 * 3}
    assert collectives(model, backward=False) == blocks
    # The norms' gradients: one (small) message a layer.
    assert collectives(model, backward=True) == {**blocks, "allreduce": 3}
