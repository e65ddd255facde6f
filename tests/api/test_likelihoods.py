"""``tk.alm_loss`` against the golden data, the training loss, and a token-by-token rendering."""

from __future__ import annotations

import inspect
from dataclasses import fields

import pytest
import torch

import tokenkit as tk
from tests.golden_runners.losses import (
    GOLDEN,
    UNSCORED_FIRST_TOKEN,
    check_pair,
    evaluate,
    load_arrays,
    rendering,
)
from tests.launch import SPEC_A, SPEC_B
from tests.losses.reference import make_loss, random_case, reference_alm, run, scores
from tests.test_golden import golden_cases
from tokenkit.errors import ConfigError, ModelError
from tokenkit.losses.alm import AlmSettings
from tokenkit.losses.alm_diffs import DIFFERENCES

MERGED = "merge_by_space_prob+append_space"
CASES = [case.values for case in golden_cases() if case.values[1]["function"] == "alm"]


def inputs(student, teacher):
    """What a user would give of both sides: tensors, and chunk ids of what counts."""
    sides = [(o.token_logprob, o.seq.active("unconstrained"), o.boundary_logprob)
             for o in (student, teacher)]  # fmt: skip
    mine, theirs = sides
    return mine[0], theirs[0], mine[1], theirs[1], mine[2], theirs[2]


@pytest.mark.parametrize(("folder", "case"), CASES, ids=lambda v: v.get("id", "")
                         if isinstance(v, dict) else "")  # fmt: skip
def test_golden_values(folder, case):
    """Values and gradients of the JAX reference; where it counts first tokens, a rendering's."""
    arrays = load_arrays(folder, case)
    alm = {k: v for k, v in case["args"].items() if not k.endswith("_eos")}
    ours = evaluate(arrays, case, lambda *sides: tk.alm_loss(*inputs(*sides), **alm))
    if folder == GOLDEN and case["id"] in UNSCORED_FIRST_TOKEN:
        config = make_loss(**alm)[1]
        expected = evaluate(arrays, case, lambda *sides: rendering(config, False, *sides))
    else:
        expected = arrays["out.loss"], arrays["out.grad_student_logits"]
    check_pair(case, ours, expected)


@pytest.mark.parametrize("mode", ["", "append_space", "merge_by_space_prob", MERGED])
@pytest.mark.parametrize("diff_fn", DIFFERENCES)
def test_it_is_the_training_loss(diff_fn, mode):
    student, teacher = random_case(3)
    options = {"diff_fn": diff_fn, "mode": mode, "temperature": 3.0, "merge_threshold": 0.3}
    value, gradients, _ = run(make_loss(**options)[0], student, teacher)
    ours = tk.alm_loss(*inputs(student, teacher), **options)
    found = torch.autograd.grad(ours, scores(student), allow_unused=True)
    assert ours.item() == value.item()
    for mine, theirs in zip(found, gradients, strict=True):
        assert torch.equal(torch.zeros_like(theirs) if mine is None else mine, theirs)


def test_float64_against_a_rendering_token_by_token():
    student, teacher = random_case(4)
    options = {"mode": MERGED, "temperature": 5.0, "numerator": "token_count"}
    sides = [x.double().detach() if x.is_floating_point() else x for x in inputs(student, teacher)]
    total, count = tk.alm_sum(*sides, **options)
    assert total.dtype == torch.float64
    expected, number = reference_alm(student, teacher, make_loss(**options)[1])
    torch.testing.assert_close(total, expected.detach(), rtol=1e-9, atol=0)
    assert count.item() == number


def test_sums_of_micro_batches_make_the_loss_of_the_batch():
    given = inputs(*random_case(5, rows=4))
    parts = [tk.alm_sum(*(x[rows] for x in given)) for rows in (slice(0, 1), slice(1, 4))]
    total, count = (sum(values) for values in zip(*parts, strict=True))
    torch.testing.assert_close(total / count, tk.alm_loss(*given))


def test_nothing_that_counts_is_zero_with_a_zero_gradient():
    given = list(inputs(*random_case(0)))
    given[2:4] = (torch.full_like(ids, -1) for ids in given[2:4])
    loss = tk.alm_loss(*given)
    loss.backward()
    assert loss.item() == 0 and not given[0].grad.any()


def test_what_is_not_read_may_be_anything():
    """A row's first token, and tokens in no chunk: NaN there reaches neither value nor gradient."""
    student, teacher = random_case(6)
    given = list(inputs(student, teacher))
    mine = given[0].detach().clone().requires_grad_()
    damaged = torch.where(given[2] < 0, torch.nan, mine)
    damaged = torch.cat([torch.full_like(damaged[:, :1], torch.nan), damaged[:, 1:]], 1)
    expected = tk.alm_loss(*given)
    loss = tk.alm_loss(damaged, *given[1:])
    loss.backward()
    assert loss.item() == expected.item() and mine.grad.isfinite().all()


def test_packed_rows_say_which_tokens_have_no_log_prob():
    """Two documents in a row make what they make in rows of their own."""
    student, teacher = random_case(7, rows=2, gap=False)
    given = inputs(student, teacher)
    alone = tk.alm_sum(*given)
    packed, scored = [], {}
    for place, values in enumerate(given):
        first, second = values[:1], values[1:]
        if not values.is_floating_point():
            second = torch.where(second >= 0, second + 100, second)
        packed.append(torch.cat([first, second], 1))
        if place < 2:
            side = ("student", "teacher")[place]
            scored[f"{side}_scored"] = (
                torch.arange(packed[place].shape[1])[None] % len(values[0]) > 0
            )
    # Ids must be below the teacher's tokens: number them anew.
    top = int(given[3][0].max()) + 1
    packed[2], packed[3] = (torch.where(x >= 100, x - 100 + top, x) for x in packed[2:4])
    together = tk.alm_sum(*packed, **scored)
    torch.testing.assert_close(together, alone)


def test_half_precision_is_read_as_float32():
    given = [x.bfloat16() if x.is_floating_point() else x for x in inputs(*random_case(8))]
    widened = [x.float() if x.is_floating_point() else x for x in given]
    assert tk.alm_loss(*given).dtype == torch.float32
    assert tk.alm_loss(*given).item() == tk.alm_loss(*widened).item()


def test_defaults_are_those_of_training():
    known = {field.name: field.default for field in fields(AlmSettings)}
    given = inspect.signature(tk.alm_sum).parameters
    shared = [name for name in given if name in known]
    assert len(shared) == 7
    for name in shared:
        assert given[name].default == known[name], name


def wrong(place=None, value=None, **options):
    given = list(inputs(*random_case(0)))
    if place is not None:
        given[place] = value(given[place])
    return lambda: tk.alm_loss(*given, **options)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (wrong(0, lambda x: x[0]), ModelError, r"student_logprob is float32 \[27\]"),
        (wrong(0, lambda x: x.long()), ModelError, "student_logprob is int64"),
        (wrong(0, lambda x: -x), ModelError, "student_logprob has a value of .*: log-probs are at"),
        (wrong(5, lambda x: -x), ModelError, "teacher_boundary has a value"),
        (wrong(1, lambda x: x * torch.nan), ModelError, "teacher_logprob has a value of nan"),
        (wrong(2, lambda x: x[:, 1:]), ModelError, r"student_chunks is int64 \[3, 26\], but"),
        (wrong(3, lambda x: x.float()), ModelError, "teacher_chunks is float32"),
        (wrong(4, lambda x: None), ConfigError, 'student_boundary, which is missing.*mode=""'),
        (wrong(mode="merge"), ConfigError, "alm.mode"),
        (wrong(diff_fn="kl"), ConfigError, "alm.diff_fn = .kl.: expected one of"),
        (wrong(temperature=0.0), ConfigError, "alm.temperature = 0.0: expected more than 0"),
        (wrong(diff_fn="renyi", renyi_alpha=1.0), ConfigError, "order other than 1"),
    ],
)
def test_what_is_wrong_is_named(call, error, words):
    with pytest.raises(error, match=words) as found:
        call()
    assert "\n" not in str(found.value)


def test_rows_must_agree():
    given = [x[:2] if k % 2 else x for k, x in enumerate(inputs(*random_case(0)))]
    with pytest.raises(ModelError, match="student_logprob has 3 rows, but teacher_logprob has 2"):
        tk.alm_loss(*given)


def test_from_texts_to_a_loss():
    teacher, student = tk.load_tokenizer(SPEC_A), tk.load_tokenizer(SPEC_B)
    pairs = tk.align(["One text.", "Another, longer text about tokens."], teacher, student)
    chunks = {}
    for name in ("student", "teacher"):
        rows = [torch.from_numpy(getattr(pair, name).chunks) for pair in pairs]
        chunks[name] = torch.nn.utils.rnn.pad_sequence(rows, True, -1)
    logprobs = [-torch.rand(chunks[name].shape) for name in ("student", "teacher")]
    total, count = tk.alm_sum(*logprobs, chunks["student"], chunks["teacher"], mode="")
    # Every chunk but that of BOS counts.
    assert count.item() == sum(int(pair.teacher.chunks.max()) for pair in pairs)
    assert total > 0
