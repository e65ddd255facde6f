"""Fused scores against the naive log-softmax, in value and gradient."""

from __future__ import annotations

import pytest
import torch

from tokenkit.models.linear_scores import hidden_gradient, linear_scores

N, D, V, VALID = 9, 5, 13, 11


def inputs(dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(N, D, generator=generator, dtype=torch.float64)
    weight = torch.randn(V, D, generator=generator, dtype=torch.float64)
    bias = torch.randn(V, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, VALID, (N,), generator=generator)
    boundary = torch.rand(V, generator=generator) < 0.4
    boundary[0] = True
    leaves = [t.to(dtype).requires_grad_() for t in (hidden, weight, bias)]
    return (*leaves, labels, boundary)


def naive(hidden, weight, bias, labels, boundary, softcap=None, logit_scale=1.0):
    logits = (hidden @ weight.T + bias) * logit_scale
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    logprob = logits[:, :VALID].log_softmax(-1)
    label = logprob.gather(1, labels[:, None]).squeeze(1)
    return label, logprob[:, boundary[:VALID]].logsumexp(-1)


OPTIONS = [{}, {"softcap": 2.0}, {"logit_scale": 0.3}, {"softcap": 2.0, "logit_scale": 1.7}]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("chunk_rows", [1, 4, 100])
def test_equals_naive(options, chunk_rows):
    hidden, weight, bias, labels, boundary = inputs()
    ours = linear_scores(
        hidden, weight, labels, boundary, bias=bias, valid_vocab=VALID, chunk_rows=chunk_rows,
        **options,
    )[:2]  # fmt: skip
    expected = naive(hidden, weight, bias, labels, boundary, **options)
    torch.testing.assert_close(ours, expected)
    weights = torch.randn(2, N, dtype=torch.float64)
    leaves = (hidden, weight, bias)
    ours = torch.autograd.grad((weights[0] * ours[0] + weights[1] * ours[1]).sum(), leaves)
    expected = weights[0] * expected[0] + weights[1] * expected[1]
    torch.testing.assert_close(ours, torch.autograd.grad(expected.sum(), leaves))


@pytest.mark.parametrize("options", OPTIONS)
def test_gradcheck(options):
    hidden, weight, bias, labels, boundary = inputs()

    def function(hidden, weight, bias):
        return linear_scores(
            hidden, weight, labels, boundary, bias=bias, valid_vocab=VALID, chunk_rows=4, **options
        )[:2]

    assert torch.autograd.gradcheck(function, (hidden, weight, bias))


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("with_boundary", [True, False])
def test_hidden_gradient_equals_autograd(options, with_boundary):
    hidden, weight, bias, labels, boundary = inputs()
    mask = boundary if with_boundary else None
    scores = linear_scores(
        hidden,
        weight,
        labels,
        mask,
        bias=bias,
        valid_vocab=VALID,
        keep_expectations=True,
        **options,
    )
    a, b = torch.randn(2, N, dtype=torch.float64)
    total = (a * scores.label_logprob).sum()
    if with_boundary:
        total = total + (b * scores.boundary_logprob).sum()
    (expected,) = torch.autograd.grad(total, hidden)
    ours = hidden_gradient(scores, weight, labels, a, b if with_boundary else None)
    torch.testing.assert_close(ours, expected)


def test_padding_rows_get_no_probability_and_no_gradient():
    hidden, weight, _, labels, boundary = inputs()
    scores = linear_scores(hidden, weight, labels, boundary, valid_vocab=VALID)
    scores.label_logprob.sum().backward()
    assert (weight.grad[VALID:] == 0).all() and (weight.grad[:VALID] != 0).any()


def test_low_precision_inputs_reduce_in_fp32():
    hidden, weight, bias, labels, boundary = inputs(torch.bfloat16)
    scores = linear_scores(hidden, weight, labels, boundary, valid_vocab=VALID)
    assert scores.label_logprob.dtype == torch.float32
    exact = naive(hidden.double(), weight.double(), 0 * bias.double(), labels, boundary)
    torch.testing.assert_close(scores.label_logprob.double(), exact[0], atol=0.05, rtol=0.02)
    (scores.label_logprob.sum() + scores.boundary_logprob.sum()).backward()
    assert hidden.grad.dtype == weight.grad.dtype == torch.bfloat16


def test_empty_boundary_set_is_finite():
    hidden, weight, _, labels, boundary = inputs()
    scores = linear_scores(hidden, weight, labels, torch.zeros_like(boundary))
    assert torch.isfinite(scores.boundary_logprob).all() and (scores.boundary_logprob < -100).all()
    scores.boundary_logprob.sum().backward()
    assert torch.isfinite(hidden.grad).all()


def test_frozen_inputs_get_no_gradient():
    hidden, weight, _, labels, _ = inputs()
    scores = linear_scores(hidden.detach(), weight, labels, None)
    scores.label_logprob.sum().backward()
    assert hidden.grad is None and weight.grad is not None
