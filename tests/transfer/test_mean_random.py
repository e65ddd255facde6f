"""Mean and random: what is copied, and the value or distribution of the rest."""

from __future__ import annotations

import pytest
import torch

from tests.tokenizers.samples import tokenizer
from tests.transfer.test_fvt import PAIRS, origins_of
from tokenkit.transfer import INITIALIZERS
from tokenkit.transfer.mean import mean
from tokenkit.transfer.random import random


@pytest.mark.parametrize(("source", "target"), PAIRS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_mean(tmp_path, source: str, target: str, dtype: torch.dtype) -> None:
    s, t = tokenizer(source, tmp_path), tokenizer(target, tmp_path)
    matrix = torch.randn(len(s), 6, generator=torch.Generator().manual_seed(0)).to(dtype)
    new, report = mean(s, t, [matrix])
    by_id = origins_of(s, t)
    missing = [i for i, (origin, _) in enumerate(by_id) if origin in ("averaged", "fallback")]
    for i, (origin, ids) in enumerate(by_id):
        assert origin not in ("special", "exact") or torch.equal(new[0][i], matrix[ids[0]])
    assert (report["fallback"], report["averaged"]) == (len(missing), 0)
    expected = matrix.double().mean(0).to(dtype)
    torch.testing.assert_close(new[0][missing], expected.expand(len(missing), -1))


def _copied(s, i: int, matrix: torch.Tensor, new: torch.Tensor) -> bool:
    """Whether a row is one of the source's."""
    return bool((matrix == new[i]).all(1).any())


@pytest.mark.parametrize(("source", "target"), [("llama3", "qwen2"), ("llama3", "llama3")])
def test_random_copies_special_tokens_only(tmp_path, source: str, target: str) -> None:
    s, t = tokenizer(source, tmp_path), tokenizer(target, tmp_path)
    generator = torch.Generator().manual_seed(1)
    scale = torch.tensor([1.0, 3.0, 0.1, 10.0])
    matrix = torch.randn(len(s), 4, generator=generator) * scale + torch.tensor([0, 7, 1, -5])
    (new, other), report = random(s, t, [matrix, matrix], seed=3)
    copied = torch.tensor([_copied(s, i, matrix, new) for i in range(len(t))])
    assert int(copied.sum()) == report["special"] > 3
    assert report["exact"] == report["averaged"] == 0
    assert report["fallback"] == len(t) - report["special"]
    drawn = new[~copied]
    error = scale / len(drawn) ** 0.5
    assert ((drawn.mean(0) - matrix.mean(0)).abs() < 5 * error).all()
    torch.testing.assert_close(drawn.std(0), matrix.std(0), rtol=0.1, atol=0)
    assert not torch.equal(new, other)
    again = random(s, t, [matrix], seed=3)[0][0]
    assert torch.equal(new, again)
    assert not torch.equal(new, random(s, t, [matrix], seed=4)[0][0])


@pytest.mark.parametrize("name", ["llama3", "gemma2", "qwen2"])
@pytest.mark.parametrize("method", ["fvt", "mean", "focus", "omp"])
def test_same_tokenizer_gives_the_same_matrices(tmp_path, name: str, method: str) -> None:
    t = tokenizer(name, tmp_path)
    generator = torch.Generator().manual_seed(2)
    matrices = [torch.randn(len(t), 8, generator=generator).to(torch.bfloat16) for _ in range(2)]
    made, report = INITIALIZERS.get(method)(t, t, matrices)
    assert all(torch.equal(a, b) for a, b in zip(made, matrices, strict=True))
    assert report["averaged"] == report["fallback"] == 0
