"""A process group on the GPU in this process, and tiny models."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch.distributed as dist

from tests.training.small_runs import write_folder
from tokenkit.config import Config
from tokenkit.parallelisms import Parallel, init_parallel


@pytest.fixture(scope="module")
def parallel() -> Iterator[Parallel]:
    """A process group of one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RANK", raising=False)
        yield init_parallel(Config())
        dist.destroy_process_group()


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    """See :func:`tests.training.small_runs.write_folder`."""
    return write_folder(tmp_path_factory.mktemp("small_runs"))
