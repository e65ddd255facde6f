"""ALM against a direct float64 rendering of its definition, and what any such loss must satisfy."""

from __future__ import annotations

import math

import pytest
import torch

from tokenkit.config import config_from_dict
from tokenkit.data import Batch
from tokenkit.losses import LOSSES, SequenceScores
from tokenkit.losses.alm_diffs import DIFFERENCES, log1mexp

MODES = ["", "append_space", "merge_by_space_prob", "merge_by_space_prob+append_space"]


def make(**alm):
    config = config_from_dict({"loss": {"names": ["alm_unconstrained"]}, "alm": alm})
    return LOSSES.get("alm_unconstrained")(config, None, None)


def random_chunks(rows, length, generator):
    steps = torch.randint(0, 2, (rows, length), generator=generator)
    chunks = steps.cumsum(1) - steps[:, :1]
    chunks[torch.rand(rows, length, generator=generator) < 0.1] = -1
    return chunks.int()


def example(rows=3, t_length=12, s_length=15, seed=0):
    generator = torch.Generator().manual_seed(seed)
    ids = {n: torch.ones(rows, n, dtype=torch.long) for n in (t_length, s_length)}
    keep = lambda n: torch.rand(rows, n, generator=generator) < 0.9  # noqa: E731
    scores = lambda n: SequenceScores(  # noqa: E731
        -3 * torch.rand(rows, n, generator=generator), -4 * torch.rand(rows, n, generator=generator)
    )
    batch = Batch(
        student_ids=ids[s_length], student_mask=ids[s_length].bool(),
        student_loss_mask=keep(s_length), teacher_ids=ids[t_length],
        teacher_mask=ids[t_length].bool(), teacher_loss_mask=keep(t_length),
        student_chunks={"unconstrained": random_chunks(rows, s_length, generator)},
        teacher_chunks={"unconstrained": random_chunks(rows, t_length, generator)},
    )  # fmt: skip
    return batch, scores(t_length), scores(s_length)


def slow_chunks(chunks, mask, scores):
    """chunk → [log-prob, tokens, boundary], the long way."""
    active = [c if m else -1 for c, m in zip(chunks.tolist(), mask.tolist(), strict=True)]
    found = {}
    for chunk in sorted(set(active) - {-1}):
        positions = [t for t, c in enumerate(active) if c == chunk]
        counted = [t for t in positions if t >= 1]
        end = positions[0]
        while end + 1 < len(active) and active[end + 1] == chunk:
            end += 1
        logprob = sum(scores.label_logprob[t - 1].double().item() for t in counted)
        found[chunk] = [logprob, len(counted), scores.boundary_logprob[end].double().item()]
    return found


def row_of(scores, row):
    return SequenceScores(scores.label_logprob[row], scores.boundary_logprob[row])


def slow_alm(batch, teacher, student, mode, threshold, tau=100.0):
    total, count = 0.0, 0
    for row in range(len(batch.teacher_ids)):
        t = slow_chunks(
            batch.teacher_chunks["unconstrained"][row],
            batch.teacher_loss_mask[row],
            row_of(teacher, row),
        )
        s = slow_chunks(
            batch.student_chunks["unconstrained"][row],
            batch.student_loss_mask[row],
            row_of(student, row),
        )
        on = [c for c in sorted(t) if t[c][1] > 0 and c < 12]
        groups, current = [], []
        if "merge" in mode:
            for chunk in on:
                if current and chunk != current[-1] + 1:  # a gap ends a group
                    groups.append(current)
                    current = []
                current.append(chunk)
                if math.exp(t[chunk][2]) > threshold:
                    groups.append(current)
                    current = []
            if current:
                groups.append(current)
        else:
            groups = [[c] for c in on]
        for group in groups:
            run = [group[0]]
            while run[-1] + 1 in group:
                run.append(run[-1] + 1)
            y = sum(t[c][0] for c in group)
            x = sum(s.get(c, [0.0])[0] for c in group)
            if "append" in mode:
                y += t[run[-1]][2]
                x += s[run[-1]][2] if run[-1] in s else student.boundary_logprob[row, 0].item()
            y, x = y / tau - 1e-6, x / tau - 1e-6
            total -= math.exp(y) * x + (1 - math.exp(y)) * math.log(-math.expm1(x))
            count += 1
    return total / count


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("seed", range(4))
def test_equals_the_definition(mode, seed):
    batch, teacher, student = example(seed=seed)
    loss = make(mode=mode, merge_threshold=0.2)
    count = loss.count(batch, teacher)
    value, _ = loss(batch, student, teacher, count)
    assert value.item() == pytest.approx(slow_alm(batch, teacher, student, mode, 0.2), rel=1e-5)


@pytest.mark.parametrize("diff_fn", sorted(DIFFERENCES))
@pytest.mark.parametrize("mode", MODES)
def test_shares_of_micro_batches_add_up(diff_fn, mode):
    batch, teacher, student = example(rows=4)
    loss = make(diff_fn=diff_fn, mode=mode)
    count = loss.count(batch, teacher)
    whole, metrics = loss(batch, student, teacher, count)
    parts, counts, part_metrics = 0.0, 0.0, {}
    for rows in (slice(0, 1), slice(1, 4)):
        part = batch._map(lambda tensor, rows=rows: tensor[rows])
        t, s = (SequenceScores(*(v[rows] for v in vars(x).values())) for x in (teacher, student))
        counts += loss.count(part, t)
        value, extra = loss(part, s, t, count)
        parts += value
        for name, metric in extra.items():
            part_metrics[name] = part_metrics.get(name, 0.0) + metric
    torch.testing.assert_close(counts, count)
    torch.testing.assert_close(parts, whole)
    for name, metric in metrics.items():
        torch.testing.assert_close(part_metrics[name], metric)


@pytest.mark.parametrize("mode", MODES)
def test_padding_changes_nothing(mode):
    batch, teacher, student = example()
    loss = make(mode=mode)
    value, _ = loss(batch, student, teacher, loss.count(batch, teacher))

    def pad(tensor):
        return torch.nn.functional.pad(
            tensor, (0, 5), value=-1 if tensor.dtype == torch.int32 else 0
        )

    wide = batch._map(pad)
    t, s = (SequenceScores(*(pad(v) for v in vars(x).values())) for x in (teacher, student))
    padded, _ = loss(wide, s, t, loss.count(wide, t))
    torch.testing.assert_close(padded, value)


@pytest.mark.parametrize("diff_fn", sorted(DIFFERENCES))
def test_identical_sides_are_the_minimum(diff_fn):
    batch, teacher, _ = example(s_length=12)
    batch.student_chunks, batch.student_loss_mask = batch.teacher_chunks, batch.teacher_loss_mask
    label = teacher.label_logprob.clone().requires_grad_()
    boundary = teacher.boundary_logprob.clone().requires_grad_()
    loss = make(diff_fn=diff_fn)
    value, _ = loss(batch, SequenceScores(label, boundary), teacher, loss.count(batch, teacher))
    gradient = torch.autograd.grad(value, [label, boundary])
    assert max(g.abs().max() for g in gradient) < 1e-6
    moved = SequenceScores(label.detach() - 0.1, boundary.detach())
    assert loss(batch, moved, teacher, loss.count(batch, teacher))[0] >= value - 1e-7


def test_log1mexp():
    a = torch.tensor([-1e-9, -1e-3, -0.5, -0.7, -5.0, -80.0], dtype=torch.float64)
    expected = torch.tensor([math.log(-math.expm1(x)) for x in a.tolist()], dtype=torch.float64)
    torch.testing.assert_close(log1mexp(a), expected)
    leaf = a.clone().requires_grad_()
    assert torch.autograd.gradcheck(log1mexp, leaf[2:])
