"""ALM against a token-by-token float64 rendering, and its invariances."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from tests.losses.reference import (
    count_of,
    make_loss,
    random_case,
    reference_alm,
    run,
    scores,
    value_of,
)
from tokenkit.batch import Sequences, mapped
from tokenkit.losses import LOSSES
from tokenkit.losses.alm_diffs import DIFFERENCES
from tokenkit.models.outputs import Outputs

MODES = ["", "append_space", "merge_by_space_prob", "merge_by_space_prob+append_space"]
MERGED = "merge_by_space_prob+append_space"


def pad(tensor, amount, value):
    return torch.nn.functional.pad(tensor, (0, amount), value=value)


def check_against_reference(seed, gap=True, **alm):
    student, teacher = random_case(seed, gap=gap)
    loss, config = make_loss(**alm)
    value, found, _ = run(loss, student, teacher)
    total, count = reference_alm(student, teacher, config)
    inputs = scores(student)
    expected = torch.autograd.grad(total / count, inputs, allow_unused=True)
    assert count_of(loss, student, teacher).item() == count
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
    _, teacher = random_case(0, gap=False)
    student = Outputs(teacher.seq, *(s.clone().requires_grad_() for s in scores(teacher)))
    loss, _ = make_loss(diff_fn=diff_fn, mode=MERGED, temperature=2.0)
    value, found, _ = run(loss, student, teacher)
    assert all(gradient.abs().max() < 1e-6 for gradient in found)
    if diff_fn != "binary_ce":  # its minimum is the teacher's entropy
        assert abs(value) < 1e-6


def token_scores(seq):
    """Scores that depend on a token and the one before it only: both sides agree on a text."""
    before = torch.nn.functional.pad(seq.ids[:, :-1], (1, 0))
    after = torch.nn.functional.pad(seq.ids[:, 1:], (0, 1))
    token = -(0.1 + ((3 * before + 7 * seq.ids) % 11) / 5.0)
    boundary = -(0.1 + ((5 * seq.ids + 7 * after) % 11) / 5.0)
    values = (torch.where(seq.scored, token, 0.0), boundary)
    return Outputs(seq, *(value.clone().requires_grad_() for value in values))


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
    sides = []
    for side in ("student", "teacher"):
        has_bos = side == bos_side
        ids = with_bos if has_bos else text
        found = torch.nn.functional.pad(chunks, (1, 0), value=-1) if has_bos else chunks
        sides.append(token_scores(Sequences.of(ids, chunks={kind: found})))
    student, teacher = sides
    loss, _ = make_loss(f"alm_{kind}", mode=mode, diff_fn="reverse_binary_kl", merge_threshold=0.4)
    value, found, metrics = run(loss, student, teacher)
    assert value.abs() < 1e-6 and all(gradient.abs().max() < 1e-6 for gradient in found)
    assert metrics[f"alm_{kind}/teacher_tokens"] * count_of(loss, student, teacher) == 5 + 4


def take_rows(side, rows):
    """Some rows of a model's outputs."""
    seq = side.seq
    chunks = {kind: ids[rows] for kind, ids in seq.chunks.items()}
    part = Sequences.of(seq.ids[rows], seq.mask[rows], seq.loss_mask[rows], chunks)
    return Outputs(part, *(values[rows] for values in scores(side)))


def longer(side, amount):
    """A model's outputs with more padding, of which it says anything."""
    seq = side.seq
    chunks = {kind: pad(ids, amount, -1) for kind, ids in seq.chunks.items()}
    masks = (pad(mask, amount, False) for mask in (seq.mask, seq.loss_mask))
    part = Sequences.of(pad(seq.ids, amount, 0), *masks, chunks)
    token, boundary = scores(side)
    return Outputs(part, pad(token, amount, 0.0), pad(boundary, amount, -7.0))


@pytest.mark.parametrize("denominator", ["chunk_count", "token_count"])
def test_micro_batches_add_up(denominator):
    student, teacher = random_case(0, rows=4)
    loss, _ = make_loss(mode=MERGED, denominator=denominator)
    count = count_of(loss, student, teacher)
    whole, gradients, metrics = run(loss, student, teacher)
    parts = [slice(0, 1), slice(1, 4)]
    pieces = [[take_rows(side, part) for side in (student, teacher)] for part in parts]
    torch.testing.assert_close(sum(count_of(loss, *piece) for piece in pieces), count)
    results = [value_of(loss, *piece, count) for piece in pieces]
    torch.testing.assert_close(sum(value for value, _ in results).detach(), whole)
    for name, value in metrics.items():
        assert not value.requires_grad and value.shape == ()
        torch.testing.assert_close(sum(found[name] for _, found in results), value)
    inputs = scores(student)
    added = torch.autograd.grad(sum(value for value, _ in results), inputs)
    torch.testing.assert_close(list(added), gradients)


def test_padding_changes_nothing():
    student, teacher = random_case(0)
    loss, _ = make_loss(mode=MERGED)
    value, gradients, _ = run(loss, student, teacher)
    sides = longer(student, 5), longer(teacher, 9)
    padded, _ = value_of(loss, *sides, count_of(loss, *sides))
    torch.testing.assert_close(padded.detach(), value)
    torch.testing.assert_close(list(torch.autograd.grad(padded, scores(student))), gradients)


@pytest.mark.parametrize("diff_fn", DIFFERENCES)
def test_no_chunks_at_all(diff_fn):
    student, teacher = random_case(0)
    teacher.seq.loss_mask = torch.zeros_like(teacher.seq.loss_mask)
    loss, _ = make_loss(diff_fn=diff_fn)
    assert count_of(loss, student, teacher) == 0
    value, found, _ = run(loss, student, teacher)
    assert value == 0 and all(gradient.eq(0).all() for gradient in found)


@pytest.mark.parametrize("logprob", [0.0, -85.0, -300.0])
@pytest.mark.parametrize("diff_fn", DIFFERENCES)
def test_extreme_probabilities_stay_finite(diff_fn, logprob):
    student, teacher = random_case(0)
    loss, _ = make_loss(diff_fn=diff_fn, temperature=100.0)
    for side, other in ((student, teacher), (teacher, student)):
        with torch.no_grad():
            side.token_logprob.fill_(logprob)
            other.token_logprob.fill_(-1.0)
        value, found, _ = run(loss, student, teacher)
        assert value.isfinite() and all(gradient.isfinite().all() for gradient in found)


def test_nothing_waits_for_the_device():
    """Fake tensors have no data, so that any decision on values raises."""
    student, teacher = random_case(0)
    loss, _ = make_loss(mode=MERGED, denominator="token_count")
    with FakeTensorMode(allow_non_fake_inputs=False) as mode:
        student, teacher = (
            Outputs(mapped(side.seq, mode.from_tensor), *map(mode.from_tensor, scores(side)))
            for side in (student, teacher)
        )
        value, _ = value_of(loss, student, teacher, count_of(loss, student, teacher))
        value.backward()


def test_metrics_say_what_was_compared():
    student, teacher = random_case(0, gap=False)
    loss, _ = make_loss(mode="append_space")
    _, _, metrics = run(loss, student, teacher)
    assert metrics["alm_unconstrained/chunks_before_merging"] == 1
    theirs, ours = (side.seq.chunks["unconstrained"] for side in (teacher, student))
    unscored = (theirs[:, :1] == 0) | (ours[:, :1] == 0)  # rows whose chunk 0 does not count
    assert unscored.any()
    on = (theirs > 0) | ((theirs == 0) & ~unscored)
    count = count_of(loss, student, teacher)
    torch.testing.assert_close(metrics["alm_unconstrained/teacher_tokens"], on.sum() / count)
    assert metrics["alm_unconstrained/teacher_logprob"] < 0
    merging, _ = make_loss(mode=MERGED, merge_threshold=1.0)
    _, _, metrics = run(merging, student, teacher)
    assert metrics["alm_unconstrained/chunks_before_merging"] > 1


@pytest.mark.parametrize(
    ("mode", "expected"),
    [("", False), ("eos_as_space", False), ("append_space", True), ("merge_by_space_prob", True)],
)
def test_needs_boundary(mode, expected):
    loss, _ = make_loss(mode=mode)
    assert ("boundary" in loss.needs) is expected and loss.needs_teacher


def test_runs_without_boundary_scores_where_none_are_needed():
    student, teacher = random_case(0)
    loss, _ = make_loss(mode="")
    count = torch.tensor(3.0)
    with_boundary = value_of(loss, student, teacher, count)[0]
    without = [side._replace(boundary_logprob=None) for side in (student, teacher)]
    torch.testing.assert_close(value_of(loss, *without, count)[0], with_boundary)


@pytest.mark.parametrize("kind", ["unconstrained", "space", "unbiased"])
def test_each_kind_reads_its_own_chunks(kind):
    student, teacher = random_case(0)
    loss, _ = make_loss(f"alm_{kind}")
    assert loss.name == f"alm_{kind}" and loss.chunk_kind == kind
    before = run(loss, student, teacher)[0]
    for other in {"unconstrained", "space", "unbiased"} - {kind}:
        teacher.seq.chunks[other] = torch.full_like(teacher.seq.chunks[other], -1)
    assert run(loss, student, teacher)[0] == before
    assert {f"alm_{kind}", "sft"} <= set(LOSSES.names())
