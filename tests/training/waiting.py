"""What would make the CPU wait for a GPU, seen on a machine that has none."""

from __future__ import annotations

from collections import Counter

import torch
from torch.utils._python_dispatch import TorchDispatchMode

# Their results' sizes, or numbers that Python reads, are known to the device alone.
WAITING = {
    "aten._local_scalar_dense", "aten.nonzero", "aten.masked_select", "aten.equal",
    "aten._unique2", "aten.unique_dim", "aten.unique_consecutive", "aten.is_nonzero",
    "aten.repeat_interleave",
}  # fmt: skip
# A number or list of Python's, copied to the device.
COPIES = {"aten.lift_fresh"}
INDEXED = {"aten.index", "aten.index_put", "aten.index_put_", "aten._index_put_impl_"}


class WaitingOps(TorchDispatchMode):
    """Counts them within, forward and backward.

    Attributes:
        found: how often each occurred.
        calls: how often every operation occurred.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = str(func.overloadpacket)
        self.calls[name] += 1
        if name in WAITING | COPIES or (name in INDEXED and _by_mask(args[1])):
            self.found[name] += 1

        return func(*args, **(kwargs or {}))


def _by_mask(indices) -> bool:
    """Whether something is picked by true and false, which is a look for what is true."""
    return any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in indices)
