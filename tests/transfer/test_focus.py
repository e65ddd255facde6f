"""FOCUS: against sparsemax's closed form, one token after the other, in float64."""

from __future__ import annotations

from importlib import import_module

import numpy as np
import pytest
import torch

from tests.tokenizers.samples import tokenizer
from tests.transfer.test_fvt import origins_of, slow
from tokenkit.transfer.focus import focus, sparsemax


def closed_form(z: np.ndarray) -> np.ndarray:
    """Martins & Astudillo (2016), algorithm 1."""
    ordered = np.sort(z)[::-1]
    sums = np.cumsum(ordered)
    k = np.arange(1, len(z) + 1)
    support = k[1 + k * ordered > sums].max()
    return np.maximum(z - (sums[support - 1] - 1) / support, 0)


@pytest.mark.parametrize("scale", [0.01, 0.3, 1.0, 50.0])
@pytest.mark.parametrize("n", [1, 2, 7, 1000])
@pytest.mark.parametrize("support", [2, 512])
def test_sparsemax(scale: float, n: int, support: int) -> None:
    z = torch.randn(20, n, generator=torch.Generator().manual_seed(n), dtype=torch.float64) * scale
    expected = np.stack([closed_form(row) for row in z.numpy()])
    for dtype, atol in ((torch.float64, 1e-12), (torch.float32, 1e-4)):
        x = z.to(dtype)
        weights, columns = sparsemax(x, support)
        got = torch.zeros_like(x).scatter(1, columns, weights)
        np.testing.assert_allclose(got.double().numpy(), expected, atol=atol)


def test_sparsemax_of_equal_scores() -> None:
    x = torch.full((3, 1000), 0.7)
    weights, columns = sparsemax(x)
    assert (columns.sort().values == torch.arange(1000)).all()
    torch.testing.assert_close(weights, torch.full_like(x, 1e-3), rtol=1e-3, atol=0)


@pytest.mark.parametrize(
    ("source", "target"), [("qwen2", "llama3"), ("gemma2", "llama3"), ("qwen2", "gemma2")]
)
@pytest.mark.parametrize("chunk", [8192, 50])
def test_equals_plain_loop(tmp_path, monkeypatch, source: str, target: str, chunk: int) -> None:
    monkeypatch.setattr(import_module("tokenkit.transfer.focus"), "CHUNK_ROWS", chunk)
    monkeypatch.setattr(import_module("tokenkit.transfer.new_rows"), "CHUNK_ROWS", chunk)
    s, t = tokenizer(source, tmp_path), tokenizer(target, tmp_path)
    generator = torch.Generator().manual_seed(0)
    matrices = [torch.randn(len(s), 8, generator=generator) for _ in range(2)]
    made, report = focus(s, t, matrices, seed=1)
    composed, origins = slow(s, t, matrices[0].double())
    assert report == origins and report["averaged"] > 50 < report["exact"]
    by_id = origins_of(s, t)
    basis = sorted({ids[0] for origin, ids in by_id if origin == "exact"})
    aux = matrices[0].double().numpy()[basis]
    aux /= np.linalg.norm(aux, axis=1, keepdims=True)
    for i, place in composed.items():
        if by_id[i][0] != "averaged":
            assert torch.equal(made[0][i].double(), place)
            continue
        place = place.numpy()
        weights = closed_form(aux @ (place / np.linalg.norm(place)))
        for matrix, new in zip(matrices, made, strict=True):
            expected = weights @ matrix.double().numpy()[basis]
            np.testing.assert_allclose(new[i].numpy(), expected, atol=2e-5)


def test_nothing_shared_falls_back_to_the_pieces(tmp_path) -> None:
    """Every source id is special or beyond the matrix's rows."""
    s, t = tokenizer("llama3", tmp_path), tokenizer("qwen2", tmp_path)
    new, report = focus(s, t, [torch.randn(1, 4)])
    assert new[0].isfinite().all() and sum(report.values()) == len(t)
