"""Fixtures of this folder."""

from __future__ import annotations

import pytest
import torch.distributed as dist


@pytest.fixture
def process_group(tmp_path):
    """A process group of this process alone."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()
