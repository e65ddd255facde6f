"""Elementwise work on blocks of logits: fused by torch.compile on GPUs, eager elsewhere.

On a GPU a block is bound by memory, so reading it once instead of once an operation is what
counts. CPU blocks are small enough for its caches.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import torch

from tokenkit.log import logger

P = ParamSpec("P")
R = TypeVar("R")


def wanted(first: torch.Tensor) -> bool:
    """Whether work on this tensor is compiled."""
    return first.is_cuda


def compiled_on_gpu(function: Callable[P, R]) -> Callable[P, R]:
    """Compile a function, whose first argument is a tensor, when it is first called on a GPU.

    Where compiling fails (no compiler is installed, say), it runs eagerly and says so once.
    """
    compiled: Callable[P, R] | None = None

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        nonlocal compiled
        if compiled is function or not wanted(args[0]):
            return function(*args, **kwargs)
        if compiled is not None:
            return compiled(*args, **kwargs)
        attempt = torch.compile(function, dynamic=True)
        try:
            result = attempt(*args, **kwargs)
        except Exception as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
            logger.warning(f"{function.__name__} cannot be compiled and runs eagerly ({reason})")
            compiled = function
            return function(*args, **kwargs)
        compiled = attempt
        return result

    return run
