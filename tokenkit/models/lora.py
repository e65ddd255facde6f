"""Low-rank adapters (LoRA, arXiv 2106.09685) that can be switched off to get the base model back.

``y = W x + alpha / rank * B A x`` with A drawn normal(0, 1 / rank) and B zero, so that training
starts at the base model.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from tokenkit.errors import ConfigError
from tokenkit.models.architectures import Architecture
from tokenkit.models.weights import plain_name
from tokenkit.ops.copy_full import copy_full
from tokenkit.registry import did_you_mean

ALL = "all-linear"  # a target: every projection, as PEFT spells it
LINEAR = (nn.Linear, Conv1D)


class LoRALinear(nn.Module):
    """A frozen linear layer (GPT-2's Conv1D is one) with a trainable low-rank update.

    The three projections are separate modules, so that tensor parallelism can split each.
    """

    def __init__(self, base: nn.Linear | Conv1D, rank: int, alpha: float) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        weight = base.weight
        options = {"bias": False, "device": weight.device, "dtype": weight.dtype}
        width, made = reversed(weight.shape) if isinstance(base, nn.Linear) else weight.shape
        self.lora_a = nn.Linear(width, rank, **options)
        self.lora_b = nn.Linear(rank, made, **options)
        self.scale = alpha / rank
        self.enabled = True

    def forward(self, x: Tensor) -> Tensor:
        y = self.base(x)
        if self.enabled:
            y = y + self.lora_b(self.scale * self.lora_a(x))  # scaled where it is small
        return y


def merge_lora(weight: Tensor, a: Tensor, b: Tensor, alpha: float, rank: int) -> Tensor:
    """``W + alpha / rank * B A`` for W ``[out, in]``, A ``[rank, in]``, B ``[out, rank]``."""
    return (weight.float() + (alpha / rank) * (b.float() @ a.float())).to(weight.dtype)


def add_lora(
    backbone: nn.Module, architecture: Architecture, targets: list[str], rank: int, alpha: float
) -> None:
    """Replace every linear layer named in ``targets`` and freeze all other parameters.

    Args:
        targets: names of layers, or :data:`ALL`.

    Raises:
        ConfigError: if the model has no layer of a target's name.
    """
    linear = {
        name
        for parent in backbone.modules()
        for name, child in parent.named_children()
        if isinstance(child, LINEAR)
    }
    known = sorted(linear | {a for a, name in architecture.lora_aliases.items() if name in linear})
    for target in targets:
        if target not in (ALL, *known):
            raise ConfigError(
                f"lora.targets: this model has no linear layer '{target}'"
                f'{did_you_mean(target, [ALL, *known])} (it has {", ".join(known)}; "{ALL}" '
                "takes all)"
            )
    names = {architecture.lora_aliases.get(target, target) for target in targets}
    names |= linear if ALL in targets else set()
    backbone.requires_grad_(False)
    found = [
        (parent, name, child)
        for parent in backbone.modules()
        for name, child in parent.named_children()
        if name in names and isinstance(child, LINEAR)
    ]
    for parent, name, child in found:
        setattr(parent, name, LoRALinear(child, rank, alpha))


@torch.no_grad()
def init_lora(backbone: nn.Module, seed: int) -> None:
    """Draw the adapters. Values depend on seed and name only, not on how parameters are sharded."""
    for name, parameter in backbone.named_parameters():
        if ".lora_a." in name:
            generator = torch.Generator().manual_seed(seed + zlib.crc32(plain_name(name).encode()))
            rank = parameter.shape[0]
            copy_full(parameter, torch.randn(parameter.shape, generator=generator) / rank)
        elif ".lora_b." in name:
            parameter.zero_()


@contextmanager
def adapters_off(backbone: nn.Module) -> Iterator[None]:
    """Within the context the backbone computes what it did before :func:`add_lora`."""
    layers = [m for m in backbone.modules() if isinstance(m, LoRALinear)]
    for layer in layers:
        layer.enabled = False
    try:
        yield
    finally:
        for layer in layers:
            layer.enabled = True


def merge_state_dict(
    state: dict[str, Tensor], alpha: float, rank: int, transposed: bool = False
) -> dict[str, Tensor]:
    """A backbone's full tensors under the plain model's names, adapters merged in.

    Args:
        transposed: of the architecture.
    """
    merged = {}
    for name, tensor in state.items():
        if ".lora_" in name:
            continue
        if name.endswith(".base.weight"):
            stem = name.removesuffix(".base.weight")
            a, b = state[f"{stem}.lora_a.weight"], state[f"{stem}.lora_b.weight"]
            if transposed:
                tensor = merge_lora(tensor.T, a, b, alpha, rank).T.contiguous()
            else:
                tensor = merge_lora(tensor, a, b, alpha, rank)
        merged[name.replace(".base.", ".")] = tensor
    return merged
