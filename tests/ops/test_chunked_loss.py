"""Streamed functions of logits against full logits, in value and gradient."""

from __future__ import annotations

import pytest
import torch

from tests.ops.test_linear_scores import OPTIONS, make_inputs
from tokenkit.ops.chunked_loss import chunked_loss

pytestmark = pytest.mark.usefixtures("alignment")


def spread(logits, weight):
    """Some function of all logits of a position."""
    return (logits.log_softmax(-1).sort(-1).values[:, :3].sum(-1)) * weight


@pytest.mark.parametrize("rows_of_block", [1, 3, None])
@pytest.mark.parametrize("name", OPTIONS)
def test_equals_full_logits(name, rows_of_block):
    hidden, weight, _, _, options = make_inputs(OPTIONS[name])
    factor = torch.randn(len(hidden), dtype=torch.float64)
    ours = chunked_loss(spread, hidden, weight, factor, rows_of_block=rows_of_block, **options)
    logits = hidden @ weight.T
    if options["bias"] is not None:
        logits = logits + options["bias"]
    logits = logits * options.get("logit_scale", 1.0)
    if softcap := options.get("softcap"):
        logits = softcap * torch.tanh(logits / softcap)
    theirs = spread(logits[:, : options.get("valid_vocab")], factor).sum()
    torch.testing.assert_close(ours, theirs)
    inputs = [t for t in (hidden, weight, options["bias"]) if t is not None]
    direction = torch.randn_like(ours)
    for a, b in zip(
        torch.autograd.grad(ours, inputs, direction),
        torch.autograd.grad(theirs, inputs, direction),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("frozen", [0, 1])
def test_frozen_inputs_and_no_rows(frozen):
    inputs = list(make_inputs({})[:2])
    inputs[frozen] = inputs[frozen].detach()
    factor = torch.ones(len(inputs[0]), dtype=torch.float64)
    chunked_loss(spread, *inputs, factor).backward()
    assert inputs[frozen].grad is None and inputs[1 - frozen].grad is not None
    nothing = chunked_loss(spread, inputs[0][:0], inputs[1], factor[:0])
    assert nothing == 0 and nothing.ndim == 0
    with torch.no_grad():
        value = chunked_loss(spread, *inputs, factor)
    torch.testing.assert_close(value, chunked_loss(spread, *inputs, factor).detach())


def test_nothing_of_the_vocabularys_size_per_position_is_saved():
    hidden = torch.randn(64, 4, requires_grad=True)
    weight = torch.randn(128, 4, requires_grad=True)
    total = chunked_loss(spread, hidden, weight, torch.ones(64), rows_of_block=8)
    saved = [tensor for tensor in total.grad_fn.saved_tensors if tensor is not None]
    assert max(tensor.numel() for tensor in saved) == weight.numel()


def test_low_precision():
    hidden, weight, *_ = make_inputs({}, torch.float32)
    low = [t.detach().bfloat16().requires_grad_() for t in (hidden, weight)]
    factor = torch.ones(len(hidden))
    ours = chunked_loss(spread, *low, factor)
    exact = [t.detach().float().requires_grad_() for t in low]
    theirs = spread(exact[0] @ exact[1].T, factor).sum()
    torch.testing.assert_close(ours, theirs)
    found = torch.autograd.grad(ours, low)
    expected = torch.autograd.grad(theirs, exact)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a.float(), b, rtol=2**-7, atol=1e-2)
