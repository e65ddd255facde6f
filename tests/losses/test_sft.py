"""Cross-entropy against torch's own."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from tests.losses.reference import count_of, make_loss, value_of
from tokenkit.batch import Sequences
from tokenkit.models.outputs import Outputs


def make_case():
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(9, (3, 6), generator=generator)
    logits = torch.randn(3, 6, 9, generator=generator, requires_grad=True)
    mask = torch.tensor([[1, 1, 1, 1, 1, 1], [0, 0, 1, 1, 0, 0], [1, 0, 0, 1, 1, 0]]).bool()
    return Sequences.of(ids, loss_mask=mask), logits


def outputs_of(seq, logits):
    logprob = logits.log_softmax(-1)[:, :-1].gather(-1, seq.ids[:, 1:, None])
    return Outputs(seq, F.pad(logprob.squeeze(-1), (1, 0)))


def test_equals_torch():
    seq, logits = make_case()
    loss, _ = make_loss("sft")
    assert not loss.needs_teacher and loss.needs == {"label"} and loss.chunk_kind is None
    count = count_of(loss, outputs_of(seq, logits), None)
    assert count == 5 + 2 + 2  # a row's first token has no prediction
    value, metrics = value_of(loss, outputs_of(seq, logits), None, count)
    assert all(not metric.requires_grad for metric in metrics.values())
    labels = seq.ids.masked_fill(~seq.loss_mask, -100)[:, 1:]
    expected = F.cross_entropy(logits[:, :-1].transpose(1, 2), labels)
    torch.testing.assert_close(value, expected)
    ours, theirs = (torch.autograd.grad(v, logits, retain_graph=True) for v in (value, expected))
    torch.testing.assert_close(ours, theirs)


def test_micro_batches_add_up():
    seq, logits = make_case()
    loss, _ = make_loss("sft")
    count = count_of(loss, outputs_of(seq, logits), None)
    whole, _ = value_of(loss, outputs_of(seq, logits), None, count)
    parts = []
    for rows in (slice(0, 1), slice(1, 3)):
        part = Sequences.of(*(tensor[rows] for tensor in (seq.ids, seq.mask, seq.loss_mask)))
        parts.append(value_of(loss, outputs_of(part, logits[rows]), None, count)[0])
    torch.testing.assert_close(sum(parts), whole)


@pytest.mark.parametrize("garbage", [float("nan"), float("-inf")])
def test_masked_positions_do_not_matter(garbage):
    seq, logits = make_case()
    loss, _ = make_loss("sft")
    outputs = outputs_of(seq, logits.detach())
    count = count_of(loss, outputs_of(seq, logits), None)
    expected, _ = value_of(loss, outputs, None, count)
    unused = ~seq.loss_mask
    logprob = outputs.token_logprob.masked_fill(unused, garbage).requires_grad_()
    value, _ = value_of(loss, outputs._replace(token_logprob=logprob), None, count)
    torch.testing.assert_close(value.detach(), expected)
    (gradient,) = torch.autograd.grad(value, logprob)
    assert gradient[unused].eq(0).all() and gradient.isfinite().all()


def test_nothing_to_predict():
    seq, logits = make_case()
    seq.loss_mask = torch.zeros_like(seq.loss_mask)
    loss, _ = make_loss("sft")
    outputs = outputs_of(seq, logits)
    assert count_of(loss, outputs, None) == 0
    assert value_of(loss, outputs, None, torch.tensor(1.0))[0] == 0
