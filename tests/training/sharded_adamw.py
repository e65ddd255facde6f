"""Steps of AdamW with bf16 moments on every rank's part of some tensors; what comes out, whole."""

from __future__ import annotations

import sys

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

from tokenkit.training.low_precision_adamw import LowPrecisionAdamW

# Rows that two ranks cannot divide evenly; one that only the first rank has.
SHAPES = {"rows": (37, 20), "columns": (16, 23), "copies": (30, 30), "one row": (1, 50), "v": (9,)}
PLACEMENTS = {"columns": Shard(1), "copies": Replicate()}
STEPS = 6


def main() -> None:
    """Argument: the file for the result."""
    dist.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    found = after_steps(lambda name, t: distribute_tensor(t, mesh, [placement(name)]))
    if dist.get_rank() == 0:
        torch.save(found, sys.argv[1])
    dist.destroy_process_group()


def placement(name: str):
    return PLACEMENTS.get(name, Shard(0))


def after_steps(spread) -> dict[str, torch.Tensor]:
    """Parameters and moments; ``spread(name, tensor)`` makes of a tensor what ranks have of it."""
    generator = torch.Generator().manual_seed(0)
    listed = {
        name: nn.Parameter(spread(name, torch.randn(shape, generator=generator)))
        for name, shape in SHAPES.items()
    }
    optimizer = LowPrecisionAdamW([{"params": list(listed.items())}], weight_decay=0.1)
    for _ in range(STEPS):
        for name, parameter in listed.items():
            parameter.grad = spread(name, torch.randn(SHAPES[name], generator=generator))
        optimizer.step()
    found = {name: parameter.detach() for name, parameter in listed.items()}
    for name, parameter in listed.items():
        found |= {f"{name}.{key}": value for key, value in optimizer.state[parameter].items()}
    return {k: t.full_tensor() if isinstance(t, DTensor) else t for k, t in found.items()}
