"""What GPUs run compiled, compiled here for the CPU."""

from __future__ import annotations

import logging
import shutil

import pytest
import torch

from tokenkit.ops import gpu_compile
from tokenkit.ops.gpu_compile import compiled_on_gpu
from tokenkit.ops.linear_scores import linear_scores


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a compiler")
@pytest.mark.parametrize("keep", [False, True])
def test_compiled_scores_equal_plain_ones(keep, monkeypatch, caplog):
    monkeypatch.setattr(gpu_compile, "wanted", lambda first: True)
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(37, 8, generator=generator, requires_grad=True)
    weight = torch.randn(50, 8, generator=generator, requires_grad=True)
    labels = torch.randint(50, (37,), generator=generator)
    mask = torch.rand(50, generator=generator) < 0.4
    factors = torch.rand(2, 37, generator=generator)
    with caplog.at_level(logging.WARNING):
        scores = linear_scores(
            hidden, weight, labels, mask, softcap=3.0, block=(16, 20), keep_directions=keep
        )
        total = scores.label_logprob @ factors[0] + scores.boundary_logprob @ factors[1]
        found = torch.autograd.grad(total, (hidden, weight))
    assert "cannot be compiled" not in caplog.text
    logprobs = (3.0 * torch.tanh(hidden @ weight.T / 3.0)).log_softmax(-1)
    label = logprobs.gather(1, labels[:, None]).squeeze(1)
    boundary = logprobs[:, mask].logsumexp(1)
    torch.testing.assert_close(scores.label_logprob, label, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(scores.boundary_logprob, boundary, rtol=1e-5, atol=1e-5)
    wanted = torch.autograd.grad(label @ factors[0] + boundary @ factors[1], (hidden, weight))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_what_cannot_be_compiled_runs_eagerly(monkeypatch, caplog):
    def broken(*_, **__):
        raise RuntimeError("no compiler\nmore")

    monkeypatch.setattr(gpu_compile, "wanted", lambda first: True)
    monkeypatch.setattr(torch, "compile", lambda function, **_: broken)
    double = compiled_on_gpu(lambda x: 2 * x)
    with caplog.at_level(logging.WARNING):
        assert double(torch.ones(1)) == 2 and double(torch.ones(1)) == 2
    assert caplog.text.count("no compiler") == 1
