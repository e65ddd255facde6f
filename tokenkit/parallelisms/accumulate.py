"""Whether a step's micro-batches share gathered weights and one reduction of gradients."""

from __future__ import annotations

import os

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh

from tokenkit.config import Config
from tokenkit.models.causal_lm import CausalLM
from tokenkit.parallelisms.dtypes import DTYPES

SHARE = 0.3  # of a device's memory that gathered weights and their gradients may take


def accumulates_unsharded(model: CausalLM, config: Config, mesh: DeviceMesh) -> bool:
    """What ``training.accumulate`` says; ``auto``: if memory allows it.

    All ranks answer alike.

    Args:
        mesh: that the model is to be sharded over.
    """
    training = config.training
    if training.accumulate != "auto":
        return training.accumulate == "unsharded"
    fits = unsharded_bytes(model, DTYPES[training.dtype]) <= SHARE * device_bytes(mesh.device_type)
    agreed = torch.tensor(float(fits), device=mesh.device_type)
    dist.all_reduce(agreed, dist.ReduceOp.MIN)
    return bool(agreed)


def unsharded_bytes(model: CausalLM, dtype: torch.dtype) -> int:
    """Of all weights in ``dtype``, and of fp32 gradients of the trained ones."""
    parameters = [(p.numel(), p.requires_grad) for p in model.parameters()]
    return sum(count * (dtype.itemsize + 4 * trained) for count, trained in parameters)


def device_bytes(device_type: str) -> int:
    """Memory of this rank's device; of the CPU, its share."""
    if device_type == "cuda":
        return torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE", dist.get_world_size()))
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // ranks
