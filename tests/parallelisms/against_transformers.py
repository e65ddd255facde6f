"""A program of several ranks: split models against transformers' own, whole on every rank.

Argument: a folder of models by family. Hidden states, the gradient of what is read and those of
all parameters of the backbone are compared, under each kind of parallelism within a model.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from transformers import AutoModel

from tokenkit.models.causal_lm import CausalLM, build_causal_lm, fill
from tokenkit.models.lora import add_lora, merge_state_dict
from tokenkit.models.source import open_source_model
from tokenkit.ops.copy_full import copy_full
from tokenkit.parallelisms.context_parallel import apply_context_parallel
from tokenkit.parallelisms.tensor_parallel import apply_tensor_parallel

LENGTH = 19  # no degree divides it
KINDS = ("tensor", "sequence", "context")
RANK, ALPHA = 4, 8.0
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def split_model(folder: Path, mesh, kind: str, lora: bool) -> CausalLM:
    """A model over the ranks of a mesh; ``kind`` is one of :data:`KINDS`."""
    source = open_source_model(str(folder))
    rows = len(source.matrices()[0])
    options = {"tied": source.tied, "valid_vocab": rows, "dtype": torch.float32}
    model = build_causal_lm(source, rows, **options)
    if lora:
        add_lora(model.backbone, source.architecture, TARGETS, RANK, ALPHA)
    if kind == "context":
        apply_context_parallel(model, mesh.get_group())
    else:
        apply_tensor_parallel(model, mesh, kind == "sequence")
    fill(model, source, source.matrices(), torch.device("cpu"))
    for name, parameter in model.backbone.named_parameters():
        if ".lora_" in name:
            torch.manual_seed(len(name))
            copy_full(parameter, 0.2 * torch.randn(parameter.shape))
    return model


def plain_gradients(folder: Path, given: dict[str, Tensor], lora: bool, embeddings, weights):
    """transformers' hidden states and gradients by the split model's names."""
    model = AutoModel.from_pretrained(folder).eval()
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in given.items()}
    merged = merge_state_dict(leaves, ALPHA, RANK) if lora else leaves
    hidden = torch.func.functional_call(
        model, merged, (), {"inputs_embeds": embeddings, "use_cache": False}, strict=False
    ).last_hidden_state
    (hidden * weights).sum().backward()
    return hidden.detach(), {name: leaf.grad for name, leaf in leaves.items()}


def mean_over_ranks(tensor: Tensor) -> Tensor:
    total = tensor.clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()


def compare(folder: Path, mesh, kind: str, lora: bool) -> None:
    model = split_model(folder, mesh, kind, lora)
    torch.manual_seed(1)
    embeddings = torch.randn(2, LENGTH, 32).requires_grad_()
    weights = torch.randn(2, LENGTH, 32)
    hidden = model.run_backbone(embeddings)
    (hidden * weights).sum().backward()
    # FSDP does so with the parts that ranks of a context have.
    gathered = mean_over_ranks if kind == "context" else whole
    given = {name: whole(p.detach()) for name, p in model.backbone.named_parameters()}
    other = embeddings.detach().clone().requires_grad_()
    expected, gradients = plain_gradients(folder, given, lora, other, weights)
    where = f"{folder.name}, {kind}, lora {lora}"
    torch.testing.assert_close(hidden, expected, rtol=1e-4, atol=1e-5, msg=f"{where}: hidden")
    read = gathered(embeddings.grad)
    torch.testing.assert_close(read, other.grad, rtol=1e-3, atol=1e-4, msg=f"{where}: read")
    trained = {n: p for n, p in model.backbone.named_parameters() if p.requires_grad}
    assert len(trained) == (14 * model.backbone.config.num_hidden_layers if lora else len(given))
    for name, parameter in trained.items():
        ours, theirs = gathered(parameter.grad), gradients[name]
        error = ((ours - theirs).norm() / theirs.norm()).item()
        assert error < 1e-4, f"{where}: gradient of {name}: relative error {error:.1e}"


def main() -> None:
    dist.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (dist.get_world_size(),), mesh_dim_names=("tp",))
    for family in sorted(Path(sys.argv[1]).iterdir()):
        for kind in KINDS:
            for lora in (False, True):
                compare(family, mesh, kind, lora)
    dist.destroy_process_group()
