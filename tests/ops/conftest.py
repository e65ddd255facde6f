"""Blocks of logits as a CPU makes them, and as a GPU does."""

from __future__ import annotations

import pytest

from tokenkit.ops import logit_blocks


@pytest.fixture(params=[1, 64], ids=["", "aligned"])
def alignment(request, monkeypatch) -> int:
    """Widths of blocks are multiples of this."""
    monkeypatch.setitem(logit_blocks.ALIGNMENT, "cpu", request.param)
    return request.param
