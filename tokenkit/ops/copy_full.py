"""Filling parameters that may be sharded over any mesh."""

from __future__ import annotations

import torch
from torch.distributed.tensor import DTensor


@torch.no_grad()
def copy_full(parameter: torch.Tensor, full: torch.Tensor) -> None:
    """Copy a full tensor into a parameter, or this rank's part of it into a sharded one."""
    if isinstance(parameter, DTensor):
        from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

        shape, offset = compute_local_shape_and_global_offset(
            parameter.shape, parameter.device_mesh, parameter.placements
        )
        part = tuple(slice(o, o + s) for o, s in zip(offset, shape, strict=True))
        parameter.to_local().copy_(full[part])
    else:
        parameter.copy_(full)
