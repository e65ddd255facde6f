"""Attention as GPUs do it, against the mask of all pairs that CPUs take."""

from __future__ import annotations

import pytest
import torch

from tokenkit.models import attention


@pytest.fixture
def inputs():
    generator = torch.Generator().manual_seed(0)
    shapes = (2, 4, 37, 16), (2, 2, 37, 16), (2, 2, 37, 16)
    return [torch.randn(shape, generator=generator) for shape in shapes]  # no backward on CPUs


@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("window", [0, 5])
def test_flex_equals_a_mask(softcap, window, inputs, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    monkeypatch.setattr(attention, "_flex_failed", False)
    attention._flex.cache_clear()
    flex = attention._try_flex(*inputs, 0.3, softcap, window)
    attention._flex.cache_clear()
    masked = attention._masked(*inputs, 0.3, softcap, window)
    torch.testing.assert_close(flex, masked, rtol=1e-4, atol=1e-5)


def test_where_flex_fails_a_mask_serves(inputs, monkeypatch, caplog):
    def broken(*_):
        raise RuntimeError("no compiler\nmore")

    monkeypatch.setattr(attention, "_flex", lambda softcap: broken)
    monkeypatch.setattr(attention, "_flex_failed", False)
    assert attention._try_flex(*inputs, 0.3, None, 5) is None
    assert attention._try_flex(*inputs, 0.3, None, 5) is None
    assert caplog.text.count("no compiler") == 1
