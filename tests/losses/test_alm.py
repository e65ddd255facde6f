"""ALM against a token-by-token float64 rendering, and its invariances."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from tests.losses.reference import make_loss, random_case, reference_alm, run
from tokenkit.batch import Batch
from tokenkit.losses import LOSSES
from tokenkit.losses.alm_diffs import DIFFERENCES
from tokenkit.losses.base import Signals

MODES = ["", "append_space", "merge_by_space_prob", "merge_by_space_prob+append_space"]
MERGED = "merge_by_space_prob+append_space"


def pad(tensor, amount, value):
    return torch.nn.functional.pad(tensor, (0, amount), value=value)


def check_against_reference(seed, gap=True, **alm):
    batch, student, teacher = random_case(seed, gap=gap)
    loss, config = make_loss(**alm)
    value, found, _ = run(loss, batch, student, teacher)
    total, count = reference_alm(batch, student, teacher, config)
    inputs = [student.label_logprob, student.boundary_logprob]
    expected = torch.autograd.grad(total / count, inputs, allow_unused=True)
    assert loss.count(batch, teacher).item() == count
    torch.testing.assert_close(value.double(), (total / count).detach(), rtol=1e-4, atol=1e-6)
    for mine, theirs in zip(found, expected, strict=True):
        theirs = torch.zeros_like(mine) if theirs is None else theirs
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("diff_fn", DIFFERENCES)
def test_differences_and_modes(diff_fn, mode):
    check_against_reference(0, diff_fn=diff_fn, mode=mode, temperature=3.0, merge_threshold=0.3)


@pytest.mark.parametrize("denominator", ["chunk_count", "token_count"])
@pytest.mark.parametrize("numerator", ["chunk_count", "token_count", "log1p_token_count"])
def test_numerators_and_denominators(numerator, denominator):
    options = {"numerator": numerator, "denominator": denominator, "temperature": 3.0}
    check_against_reference(1, mode=MERGED, merge_threshold=0.4, **options)
    check_against_reference(1, mode="append_space", **options)


@pytest.mark.parametrize("seed", range(2, 8))
@pytest.mark.parametrize("gap", [False, True])
def test_random_layouts(seed, gap):
    check_against_reference(seed, gap, mode=MERGED, temperature=5.0, merge_threshold=0.25)


def test_published_recipe():
    """At τ = 100 probabilities are near 1, where fp32 is coarse."""
    check_against_reference(0, mode=MERGED, temperature=100.0, merge_threshold=0.1)


@pytest.mark.parametrize("diff_fn", DIFFERENCES)
def test_identical_teacher_and_student_are_a_minimum(diff_fn):
    batch, _, teacher = random_case(0, gap=False)
    for name in ("ids", "mask", "loss_mask", "chunks"):
        setattr(batch, f"student_{name}", getattr(batch, f"teacher_{name}"))
    student = Signals(
        teacher.label_logprob.clone().requires_grad_(),
        teacher.boundary_logprob.clone().requires_grad_(),
    )
    loss, _ = make_loss(diff_fn=diff_fn, mode=MERGED, temperature=2.0)
    value, found, _ = run(loss, batch, student, teacher)
    assert all(gradient.abs().max() < 1e-6 for gradient in found)
    if diff_fn != "binary_ce":  # its minimum is the teacher's entropy
        assert abs(value) < 1e-6


def token_scores(ids):
    """Scores that depend on a token and the one before it only: both sides agree on a text."""
    following = torch.nn.functional.pad(ids[:, 1:], (0, 1))
    values = [-(0.1 + ((k * ids + 7 * following) % 11) / 5.0) for k in (3, 5)]
    return Signals(*(value.clone().requires_grad_() for value in values))


@pytest.mark.parametrize("bos_side", ["teacher", "student"])
@pytest.mark.parametrize("kind", ["unconstrained", "space", "unbiased"])
@pytest.mark.parametrize("mode", MODES)
def test_bos_on_one_side_leaves_a_perfect_student_alone(mode, kind, bos_side):
    """The side without BOS has no score for its first token, so what holds it cannot be compared.

    Chunks are as alignment gives them: a BOS that one side lacks is in none.
    """
    bos, text = 99, torch.arange(40, 52).view(2, 6)
    with_bos = torch.nn.functional.pad(text, (1, 0), value=bos)
    chunks = torch.tensor([[0, 1, 1, 2, 3, 4], [0, 0, 1, 2, 2, 3]], dtype=torch.int32)
    batch_arguments, scores = {}, {}
    for side in ("teacher", "student"):
        has_bos = side == bos_side
        ids = with_bos if has_bos else text
        found = torch.nn.functional.pad(chunks, (1, 0), value=-1) if has_bos else chunks
        batch_arguments |= {
            f"{side}_ids": ids,
            f"{side}_mask": torch.ones_like(ids, dtype=torch.bool),
            f"{side}_loss_mask": torch.ones_like(ids, dtype=torch.bool),
            f"{side}_chunks": {kind: found},
        }
        scores[side] = token_scores(ids)
    batch, student, teacher = Batch(**batch_arguments), scores["student"], scores["teacher"]
    loss, _ = make_loss(f"alm_{kind}", mode=mode, diff_fn="reverse_binary_kl", merge_threshold=0.4)
    value, found, metrics = run(loss, batch, student, teacher)
    assert value.abs() < 1e-6 and all(gradient.abs().max() < 1e-6 for gradient in found)
    assert metrics[f"alm_{kind}/teacher_tokens"] * loss.count(batch, teacher) == 5 + 4


def take_rows(item, rows):
    """Rows of a batch or of scores."""

    def take(value):
        if isinstance(value, dict):
            return {key: take(part) for key, part in value.items()}
        return value[rows] if isinstance(value, torch.Tensor) else value

    values = {f.name: take(getattr(item, f.name)) for f in dataclasses.fields(item)}
    return type(item)(**values)


@pytest.mark.parametrize("denominator", ["chunk_count", "token_count"])
def test_micro_batches_add_up(denominator):
    batch, student, teacher = random_case(0, rows=4)
    loss, _ = make_loss(mode=MERGED, denominator=denominator)
    count = loss.count(batch, teacher)
    whole, gradients, metrics = run(loss, batch, student, teacher)
    parts = [slice(0, 1), slice(1, 4)]
    pieces = [[take_rows(item, part) for item in (batch, student, teacher)] for part in parts]
    torch.testing.assert_close(sum(loss.count(b, t) for b, _, t in pieces), count)
    results = [loss(b, s, t, count) for b, s, t in pieces]
    torch.testing.assert_close(sum(value for value, _ in results).detach(), whole)
    for name, value in metrics.items():
        assert not value.requires_grad and value.shape == ()
        torch.testing.assert_close(sum(found[name] for _, found in results), value)
    inputs = [student.label_logprob, student.boundary_logprob]
    added = torch.autograd.grad(sum(value for value, _ in results), inputs)
    torch.testing.assert_close(list(added), gradients)


def test_padding_changes_nothing():
    batch, student, teacher = random_case(0)
    loss, _ = make_loss(mode=MERGED)
    value, gradients, _ = run(loss, batch, student, teacher)
    for side, amount in (("student", 5), ("teacher", 9)):
        for name in ("ids", "mask", "loss_mask"):
            padded = pad(getattr(batch, f"{side}_{name}"), amount, 0)
            setattr(batch, f"{side}_{name}", padded)
        chunks = getattr(batch, f"{side}_chunks")
        setattr(batch, f"{side}_chunks", {k: pad(v, amount, -1) for k, v in chunks.items()})
    scores = [
        Signals(pad(s.label_logprob, n, -7.0), pad(s.boundary_logprob, n, -7.0))
        for s, n in ((student, 5), (teacher, 9))
    ]
    count = loss.count(batch, teacher=scores[1])
    padded, _ = loss(batch, *scores, count)
    torch.testing.assert_close(padded.detach(), value)
    found = torch.autograd.grad(padded, [student.label_logprob, student.boundary_logprob])
    torch.testing.assert_close(list(found), gradients)


@pytest.mark.parametrize("diff_fn", DIFFERENCES)
def test_no_chunks_at_all(diff_fn):
    batch, student, teacher = random_case(0)
    batch.teacher_loss_mask = torch.zeros_like(batch.teacher_loss_mask)
    loss, _ = make_loss(diff_fn=diff_fn)
    assert loss.count(batch, teacher) == 0
    value, found, _ = run(loss, batch, student, teacher)
    assert value == 0 and all(gradient.eq(0).all() for gradient in found)


@pytest.mark.parametrize("logprob", [0.0, -85.0, -300.0])
@pytest.mark.parametrize("diff_fn", DIFFERENCES)
def test_extreme_probabilities_stay_finite(diff_fn, logprob):
    batch, student, teacher = random_case(0)
    loss, _ = make_loss(diff_fn=diff_fn, temperature=100.0)
    for side, other in ((student, teacher), (teacher, student)):
        with torch.no_grad():
            side.label_logprob.fill_(logprob)
            other.label_logprob.fill_(-1.0)
        value, found, _ = run(loss, batch, student, teacher)
        assert value.isfinite() and all(gradient.isfinite().all() for gradient in found)


def test_nothing_waits_for_the_device():
    """Fake tensors have no data, so that any decision on values raises."""
    batch, student, teacher = random_case(0)
    loss, _ = make_loss(mode=MERGED, denominator="token_count")
    with FakeTensorMode(allow_non_fake_inputs=False) as mode:

        def fake(value):
            if isinstance(value, dict):
                return {key: fake(part) for key, part in value.items()}
            return mode.from_tensor(value) if isinstance(value, torch.Tensor) else value

        batch, student, teacher = (
            type(item)(**{f.name: fake(getattr(item, f.name)) for f in dataclasses.fields(item)})
            for item in (batch, student, teacher)
        )
        value, _ = loss(batch, student, teacher, loss.count(batch, teacher))
        value.backward()


def test_metrics_say_what_was_compared():
    batch, student, teacher = random_case(0, gap=False)
    loss, _ = make_loss(mode="append_space")
    _, _, metrics = run(loss, batch, student, teacher)
    assert metrics["alm_unconstrained/chunks_before_merging"] == 1
    theirs, ours = batch.teacher_chunks["unconstrained"], batch.student_chunks["unconstrained"]
    unscored = (theirs[:, :1] == 0) | (ours[:, :1] == 0)  # rows whose chunk 0 does not count
    assert unscored.any()
    on = (theirs > 0) | ((theirs == 0) & ~unscored)
    count = loss.count(batch, teacher)
    torch.testing.assert_close(metrics["alm_unconstrained/teacher_tokens"], on.sum() / count)
    assert metrics["alm_unconstrained/teacher_logprob"] < 0
    merging, _ = make_loss(mode=MERGED, merge_threshold=1.0)
    _, _, metrics = run(merging, batch, student, teacher)
    assert metrics["alm_unconstrained/chunks_before_merging"] > 1


@pytest.mark.parametrize(
    ("mode", "expected"),
    [("", False), ("eos_as_space", False), ("append_space", True), ("merge_by_space_prob", True)],
)
def test_needs_boundary(mode, expected):
    loss, _ = make_loss(mode=mode)
    assert ("boundary" in loss.needs) is expected and loss.needs_teacher


def test_runs_without_boundary_scores_where_none_are_needed():
    batch, student, teacher = random_case(0)
    loss, _ = make_loss(mode="")
    with_boundary = loss(batch, student, teacher, torch.tensor(3.0))[0]
    student.boundary_logprob = teacher.boundary_logprob = None
    torch.testing.assert_close(loss(batch, student, teacher, torch.tensor(3.0))[0], with_boundary)


@pytest.mark.parametrize("kind", ["unconstrained", "space", "unbiased"])
def test_each_kind_reads_its_own_chunks(kind):
    batch, student, teacher = random_case(0)
    loss, _ = make_loss(f"alm_{kind}")
    assert loss.name == f"alm_{kind}" and loss.chunk_kind == kind
    before = run(loss, batch, student, teacher)[0]
    for other in {"unconstrained", "space", "unbiased"} - {kind}:
        batch.teacher_chunks[other] = torch.full_like(batch.teacher_chunks[other], -1)
    assert run(loss, batch, student, teacher)[0] == before
    assert {f"alm_{kind}", "sft"} <= set(LOSSES.names())
