"""A process group in the test's own process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist

from tokenkit.config import Config
from tokenkit.parallelisms import Parallel, init_parallel


@pytest.fixture(scope="module")
def parallel() -> Iterator[Parallel]:
    """A process group of one, on the CPU."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: False)
        patch.delenv("RANK", raising=False)
        yield init_parallel(Config())
        dist.destroy_process_group()
