"""NaN and infinity, looked for in one pass and without a copy."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import torch
from torch import Tensor

from tokenkit.ops.gradients import local_part


@torch.no_grad()
def largest(tensor: Tensor) -> Tensor:
    """Largest absolute value, 0-d on the tensor's device; NaN if there is one. 0 of none.

    Of a sharded tensor, this rank's part. Reads at memory speed, where ``isfinite`` does not.
    """
    part = local_part(tensor)
    if not part.numel():
        return torch.zeros((), device=part.device)
    if part.element_size() == 1:  # float8 has no minimum
        part = part.float()
    low, high = torch.aminmax(part)
    return torch.maximum(-low, high)


def fits(tensor: Tensor, dtype: torch.dtype | None = None) -> bool:
    """Whether all numbers are finite, and stay so in ``dtype`` (default: the tensor's own)."""
    if not tensor.is_floating_point():
        return True
    return largest(tensor).item() <= torch.finfo(dtype or tensor.dtype).max


def first_not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """Name of the first tensor that holds NaN or infinity; each device is waited for once."""
    found: dict[torch.device, list[tuple[str, Tensor]]] = defaultdict(list)
    for name, tensor in tensors.items():
        if tensor.is_floating_point():
            value = largest(tensor).float()
            found[value.device].append((name, value))
    bad = {
        name
        for pairs in found.values()
        for (name, _), finite in zip(
            pairs, torch.stack([value for _, value in pairs]).isfinite().tolist(), strict=True
        )
        if not finite
    }
    return next((name for name in tensors if name in bad), None)
