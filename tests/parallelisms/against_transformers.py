"""A program of several ranks: split models against transformers' own, whole on every rank.

Arguments: a folder of models by family, and the degree of tensor parallelism. Hidden states and
the gradients of all parameters of the backbone are compared.
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
from tokenkit.parallelisms.tensor_parallel import apply_tensor_parallel

LENGTH = 19  # no degree divides it
RANK, ALPHA = 4, 8.0
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def split_model(folder: Path, mesh, sequence_parallel: bool, lora: bool) -> CausalLM:
    source = open_source_model(str(folder))
    rows = len(source.matrices()[0])
    options = {"tied": source.tied, "valid_vocab": rows, "dtype": torch.float32}
    model = build_causal_lm(source, rows, **options)
    if lora:
        add_lora(model.backbone, source.architecture, TARGETS, RANK, ALPHA)
    apply_tensor_parallel(model, mesh, sequence_parallel)
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


def compare(folder: Path, mesh, sequence_parallel: bool, lora: bool) -> None:
    model = split_model(folder, mesh, sequence_parallel, lora)
    torch.manual_seed(1)
    embeddings = torch.randn(2, LENGTH, 32).requires_grad_()
    weights = torch.randn(2, LENGTH, 32)
    hidden = model.run_backbone(embeddings)
    (hidden * weights).sum().backward()
    given = {name: whole(p.detach()) for name, p in model.backbone.named_parameters()}
    other = embeddings.detach().clone().requires_grad_()
    expected, gradients = plain_gradients(folder, given, lora, other, weights)
    where = f"{folder.name}, sequence_parallel {sequence_parallel}, lora {lora}"
    torch.testing.assert_close(hidden, expected, rtol=1e-4, atol=1e-5, msg=f"{where}: hidden")
    torch.testing.assert_close(embeddings.grad, other.grad, rtol=1e-3, atol=1e-4, msg=where)
    trained = {n: p for n, p in model.backbone.named_parameters() if p.requires_grad}
    assert len(trained) == (14 * model.backbone.config.num_hidden_layers if lora else len(given))
    for name, parameter in trained.items():
        ours, theirs = whole(parameter.grad), gradients[name]
        error = ((ours - theirs).norm() / theirs.norm()).item()
        assert error < 1e-4, f"{where}: gradient of {name}: relative error {error:.1e}"


def main() -> None:
    folder, degree = Path(sys.argv[1]), int(sys.argv[2])
    dist.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (degree,), mesh_dim_names=("tp",))
    for family in sorted(folder.iterdir()):
        for sequence_parallel in (False, True):
            for lora in (False, True):
                compare(family, mesh, sequence_parallel, lora)
    dist.destroy_process_group()
