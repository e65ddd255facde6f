"""Cross-entropy against torch's own."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from tests.losses.reference import make_loss
from tokenkit.batch import Batch
from tokenkit.losses.base import Signals


def make_case():
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(9, (3, 6), generator=generator)
    logits = torch.randn(3, 6, 9, generator=generator, requires_grad=True)
    mask = torch.tensor([[1, 1, 1, 1, 1, 1], [0, 0, 1, 1, 0, 0], [1, 0, 0, 1, 1, 0]]).bool()
    return Batch(ids, torch.ones_like(mask), mask), logits


def scores_of(batch, logits):
    logprob = logits.log_softmax(-1)[:, :-1].gather(-1, batch.student_ids[:, 1:, None])
    return Signals(F.pad(logprob.squeeze(-1), (0, 1)), None)


def test_equals_torch():
    batch, logits = make_case()
    loss, _ = make_loss("sft")
    assert not loss.needs_teacher and loss.needs == {"label"} and loss.chunk_kind is None
    count = loss.count(batch, None)
    assert count == 5 + 2 + 2  # a row's first token has no prediction
    value, metrics = loss(batch, scores_of(batch, logits), None, count)
    assert all(not metric.requires_grad for metric in metrics.values())
    labels = batch.student_ids.masked_fill(~batch.student_loss_mask, -100)[:, 1:]
    expected = F.cross_entropy(logits[:, :-1].transpose(1, 2), labels)
    torch.testing.assert_close(value, expected)
    ours, theirs = (torch.autograd.grad(v, logits, retain_graph=True) for v in (value, expected))
    torch.testing.assert_close(ours, theirs)


def test_micro_batches_add_up():
    batch, logits = make_case()
    loss, _ = make_loss("sft")
    count = loss.count(batch, None)
    whole, _ = loss(batch, scores_of(batch, logits), None, count)
    parts = []
    for rows in (slice(0, 1), slice(1, 3)):
        fields = (batch.student_ids, batch.student_mask, batch.student_loss_mask)
        part = Batch(*(tensor[rows] for tensor in fields))
        parts.append(loss(part, scores_of(part, logits[rows]), None, count)[0])
    torch.testing.assert_close(sum(parts), whole)


@pytest.mark.parametrize("garbage", [float("nan"), float("-inf")])
def test_masked_positions_do_not_matter(garbage):
    batch, logits = make_case()
    loss, _ = make_loss("sft")
    scores = scores_of(batch, logits.detach())
    count = loss.count(batch, None)
    expected, _ = loss(batch, scores, None, count)
    unused = F.pad(~batch.student_loss_mask[:, 1:], (0, 1), value=True)
    scores.label_logprob = scores.label_logprob.masked_fill(unused, garbage).requires_grad_()
    value, _ = loss(batch, scores, None, count)
    torch.testing.assert_close(value.detach(), expected)
    (gradient,) = torch.autograd.grad(value, scores.label_logprob)
    assert gradient[unused].eq(0).all() and gradient.isfinite().all()


def test_nothing_to_predict():
    batch, logits = make_case()
    batch.student_loss_mask = torch.zeros_like(batch.student_loss_mask)
    loss, _ = make_loss("sft")
    assert loss.count(batch, None) == 0
    assert loss(batch, scores_of(batch, logits), None, torch.tensor(1.0))[0] == 0
