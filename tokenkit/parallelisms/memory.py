"""What data-parallel ranks may hold whole, because it fits."""

from __future__ import annotations

import os

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh

from tokenkit.config import Config
from tokenkit.ops.gradients import local_part
from tokenkit.parallelisms.dtypes import DTYPES

# Of a device's memory. A student and a teacher may be frozen; activations and AdamW take most of
# the rest.
SHARE_OF_STEP = 0.25
SHARE_OF_FROZEN = 0.2


def accumulates_unsharded(model: nn.Module, config: Config, mesh: DeviceMesh) -> bool:
    """Whether a step's micro-batches share gathered weights and one reduction of gradients.

    What ``training.accumulate`` says; ``auto``: if memory allows it.

    Args:
        mesh: that the model is to be sharded over.
    """
    training = config.training
    if training.accumulate != "auto":
        return training.accumulate == "unsharded"
    replicates = replicates_frozen(model, config, mesh)
    return _fits(bytes_of_step(model, config, replicates), SHARE_OF_STEP, mesh)


def bytes_of_step(model: nn.Module, config: Config, replicates: bool) -> int:
    """What accumulating unsharded takes: gathered weights, and gradients, which are summed in fp32.

    Args:
        replicates: frozen weights are there anyway.
    """
    size = DTYPES[config.training.dtype].itemsize
    needed = 0
    for parameter in model.parameters():
        if parameter.requires_grad:
            needed += local_part(parameter).numel() * (size + 4)
        elif not replicates:
            needed += local_part(parameter).numel() * size
    return needed


def replicates_frozen(module: nn.Module, config: Config, mesh: DeviceMesh) -> bool:
    """Whether each rank holds frozen weights whole, so that nobody sends them.

    What ``parallelism.frozen`` says; ``auto``: if they fit, or one rank would hold them anyway.
    """
    if config.parallelism.frozen != "auto":
        return config.parallelism.frozen == "replicated"
    return mesh.size() == 1 or _fits(bytes_of_frozen(module), SHARE_OF_FROZEN, mesh)


def bytes_of_frozen(module: nn.Module) -> int:
    """Of this rank's part of frozen weights."""
    frozen = [local_part(p) for p in module.parameters() if not p.requires_grad]
    return sum(part.numel() * part.element_size() for part in frozen)


def _fits(needed: int, share: float, mesh: DeviceMesh) -> bool:
    """The same on all ranks, which may have different devices."""
    fits = needed <= share * device_bytes(mesh.device_type)
    agreed = torch.tensor(float(fits), device=mesh.device_type)
    dist.all_reduce(agreed, dist.ReduceOp.MIN)
    return bool(agreed)


def device_bytes(device_type: str, world_size: int = 0) -> int:
    """Memory of this rank's device; of the CPU, its share.

    Args:
        world_size: number of ranks, if they have not been started; all on this machine, unless
            the launcher says how many are.
    """
    if device_type == "cuda":
        return torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE", world_size or dist.get_world_size()))
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // ranks


def cast_frozen(module: nn.Module, dtype: torch.dtype) -> None:
    """Frozen weights of a module on the meta device need no fp32 masters: hold them in ``dtype``.

    Parts that cast themselves know what may be cast.
    """
    for part in module.modules():
        if getattr(part, "casts_itself", False):
            continue
        for parameter in part.parameters(recurse=False):
            if not parameter.requires_grad:
                parameter.data = parameter.data.to(dtype)
