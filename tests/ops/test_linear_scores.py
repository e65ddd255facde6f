"""Chunked scores against full float64 logits, in value and gradient."""

from __future__ import annotations

import pytest
import torch

from tokenkit.ops.linear_scores import Scores, hidden_gradient, linear_scores

pytestmark = pytest.mark.usefixtures("alignment")

N, D, V = 7, 5, 11
OPTIONS = {
    "plain": {},
    "bias": {"bias": True},
    "softcap": {"softcap": 2.0},
    "scale": {"logit_scale": 0.3},
    "valid": {"valid_vocab": 8},
    "all": {"bias": True, "softcap": 2.0, "logit_scale": 0.3, "valid_vocab": 8},
}


def make_inputs(options, dtype=torch.float64, seed=0):
    """Inputs that need gradients, with labels, boundary mask and keyword arguments."""
    generator = torch.Generator().manual_seed(seed)
    options = dict(options)
    hidden = torch.randn(N, D, generator=generator, dtype=dtype, requires_grad=True)
    weight = torch.randn(V, D, generator=generator, dtype=dtype, requires_grad=True)
    bias = torch.randn(V, generator=generator, dtype=dtype, requires_grad=True)
    options["bias"] = bias if options.pop("bias", False) else None
    labels = torch.randint(options.get("valid_vocab", V), (N,), generator=generator)
    mask = torch.arange(V) % 3 == 0
    return hidden, weight, labels, mask, options


def naive(
    hidden, weight, labels, mask, *, bias=None, softcap=None, logit_scale=1.0, valid_vocab=None
):
    """Both scores from full float64 logits."""
    logits = hidden.double() @ weight.double().T
    logits = (logits if bias is None else logits + bias.double()) * logit_scale
    logits = logits if softcap is None else softcap * torch.tanh(logits / softcap)
    logprobs = logits[:, :valid_vocab].log_softmax(-1)
    boundary = logprobs[:, mask[:valid_vocab]].logsumexp(-1)
    return logprobs.gather(1, labels[:, None]).squeeze(1), boundary


def gradients(scores, inputs):
    """Gradients of a fixed random combination of both scores."""
    generator = torch.Generator().manual_seed(1)
    factors = torch.randn(2, len(scores[0]), generator=generator, dtype=torch.float64)
    total = sum((f * s).sum() for f, s in zip(factors, scores, strict=True))
    return torch.autograd.grad(total, inputs), factors


@pytest.mark.parametrize("block", [(1, 1), (3, 4), (7, 2), None])
@pytest.mark.parametrize("name", OPTIONS)
def test_equals_naive(name, block):
    *inputs, options = make_inputs(OPTIONS[name], torch.float32)
    inputs_with_grad = [t for t in (*inputs[:2], options["bias"]) if t is not None]
    ours = linear_scores(*inputs, block=block, **options)
    theirs = naive(*inputs, **options)
    for mine, expected in zip(ours[:2], theirs, strict=True):
        assert mine.dtype == torch.float32
        torch.testing.assert_close(mine.double(), expected, rtol=1e-6, atol=2e-6)
    mine, expected = (gradients(scores, inputs_with_grad)[0] for scores in (ours[:2], theirs))
    torch.testing.assert_close(mine, expected, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("name", OPTIONS)
def test_gradcheck(name, keep):
    hidden, weight, labels, mask, options = make_inputs(OPTIONS[name])
    bias = options.pop("bias")

    def scores(hidden, weight, bias):
        keywords = {**options, "bias": bias, "block": (3, 4), "keep_directions": keep}
        return linear_scores(hidden, weight, labels, mask, **keywords)[:2]

    assert torch.autograd.gradcheck(scores, (hidden, weight, bias))


@pytest.mark.parametrize("with_mask", [False, True])
@pytest.mark.parametrize("name", OPTIONS)
def test_hidden_gradient_needs_no_vocabulary(name, with_mask):
    hidden, weight, labels, mask, options = make_inputs(OPTIONS[name])
    mask = mask if with_mask else None
    kept = linear_scores(hidden, weight, labels, mask, keep_directions=True, **options)
    plain = linear_scores(hidden, weight, labels, mask, **options)[:2]
    plain = [score for score in plain if score is not None]
    (expected,), factors = (
        gradients(plain, [hidden]) if with_mask else label_gradient(plain, hidden)
    )
    grad_boundary = factors[1] if with_mask else None
    ours = hidden_gradient(kept, factors[0], grad_boundary)
    torch.testing.assert_close(ours, expected)
    assert not ours.requires_grad


def label_gradient(scores, hidden):
    factors = torch.randn(1, len(hidden), dtype=torch.float64)
    return torch.autograd.grad((factors[0] * scores[0]).sum(), [hidden]), factors


def test_no_boundary_mask():
    hidden, weight, labels, mask, _ = make_inputs({})
    scores = linear_scores(hidden, weight, labels, None)
    expected = naive(hidden, weight, labels, mask)[0]
    torch.testing.assert_close(scores.label_logprob, expected)
    assert scores == Scores(scores.label_logprob, None, scores.correct, None, None)
    ours, theirs = (torch.autograd.grad(s.sum(), [hidden, weight]) for s in (scores[0], expected))
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("used", [0, 1])
@pytest.mark.parametrize("keep", [False, True])
def test_one_score_alone(used, keep):
    *inputs, _ = make_inputs({})
    ours = linear_scores(*inputs, keep_directions=keep)[used]
    ours, theirs = (
        torch.autograd.grad(score.sum(), inputs[:2]) for score in (ours, naive(*inputs)[used])
    )
    torch.testing.assert_close(ours, theirs)


def test_padding_of_the_vocabulary_is_never_predicted():
    hidden, weight, labels, mask, options = make_inputs(OPTIONS["valid"])
    with torch.no_grad():
        weight[8:] = 100.0  # would win everywhere
    scores = linear_scores(hidden, weight, labels, mask, **options)
    short = linear_scores(hidden, weight[:8], labels, mask[:8])
    torch.testing.assert_close(scores[:2], short[:2])
    (scores.label_logprob.sum() + scores.boundary_logprob.sum()).backward()
    assert weight.grad[8:].eq(0).all() and weight.grad[:8].ne(0).any()


@pytest.mark.parametrize("frozen", [0, 1])
def test_frozen_input_gets_no_gradient(frozen):
    *inputs, _ = make_inputs({})
    inputs[frozen] = inputs[frozen].detach()
    other = 1 - frozen
    ours = torch.autograd.grad(sum(s.sum() for s in linear_scores(*inputs)[:2]), inputs[other])
    theirs = torch.autograd.grad(sum(s.sum() for s in naive(*inputs)), inputs[other])
    torch.testing.assert_close(ours, theirs)


def test_nothing_of_the_vocabularys_size_per_position_is_saved():
    n, d, v = 64, 4, 128
    hidden = torch.randn(n, d, requires_grad=True)
    weight = torch.randn(v, d, requires_grad=True)
    saved = []

    def note(tensor):
        saved.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        linear_scores(hidden, weight, torch.zeros(n, dtype=torch.long), torch.arange(v) < 3)
    assert max(saved) == v * d < n * v


@pytest.mark.parametrize("keep", [False, True])
def test_impossible_boundary_is_finite_and_without_gradient(keep):
    hidden, weight, labels, mask, _ = make_inputs({}, torch.float32)
    with torch.no_grad():
        weight[mask] = 0.0
        weight[:, 0] = torch.where(mask, -100.0, 100.0)
        hidden[:, 0] = 1.0  # boundary tokens are e^200 times less likely than the others
    for impossible in (mask, torch.zeros_like(mask)):
        score = linear_scores(hidden, weight, labels, impossible, keep_directions=keep)[1]
        assert score.isfinite().all() and score.lt(-80).all()
        found = torch.autograd.grad(score.sum(), [hidden, weight])
        assert all(gradient.eq(0).all() for gradient in found)


def test_certain_boundary():
    hidden, weight, labels, _, _ = make_inputs({})
    score = linear_scores(hidden, weight, labels, torch.ones(V, dtype=torch.bool))[1]
    torch.testing.assert_close(score, torch.zeros_like(score))
    for gradient in torch.autograd.grad(score.sum(), [hidden, weight]):
        torch.testing.assert_close(gradient, torch.zeros_like(gradient))


def test_huge_logits():
    hidden, weight, labels, mask, _ = make_inputs({}, torch.float32)
    scores = linear_scores(1e4 * hidden, weight, labels, mask, keep_directions=True)
    assert all(s.isfinite().all() for s in scores)
    assert scores.correct.equal((hidden @ weight.T).argmax(-1) == labels)  # of huge logits, too
    found = torch.autograd.grad(scores[0].sum() + scores[1].sum(), [hidden, weight])
    assert all(gradient.isfinite().all() for gradient in found)


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_inputs(dtype, keep):
    hidden, weight, labels, mask, options = make_inputs(OPTIONS["softcap"], torch.float32)
    low = [t.detach().to(dtype).requires_grad_() for t in (hidden, weight)]
    ours = linear_scores(*low, labels, mask, keep_directions=keep, **options)[:2]
    theirs = naive(*low, labels, mask, **options)
    for mine, expected in zip(ours, theirs, strict=True):
        assert mine.dtype == torch.float32
        torch.testing.assert_close(mine.double(), expected, rtol=1e-5, atol=1e-5)
    mine, expected = (gradients(scores, low)[0] for scores in (ours, theirs))
    assert all(gradient.dtype == dtype for gradient in mine)
    torch.testing.assert_close(mine, expected, rtol=2**-7, atol=1e-2)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gpu_equals_cpu(dtype, keep):
    torch.manual_seed(0)
    cpu = [torch.randn(300, 64).to(dtype), (torch.randn(1000, 64) / 4).to(dtype)]
    labels, mask = torch.randint(1000, (300,)), torch.rand(1000) < 0.3
    results = []
    for device in ("cpu", "cuda"):
        inputs = [t.to(device).requires_grad_() for t in cpu]
        scores = linear_scores(
            *inputs, labels.to(device), mask.to(device), block=(128, 300), keep_directions=keep
        )
        total = scores.label_logprob.sum() + scores.boundary_logprob.sum()
        found = torch.autograd.grad(total, inputs)
        results.append([t.float().cpu() for t in (*scores[:2], *found)])
    tolerance = 1e-4 if dtype == torch.float32 else 2e-2
    for ours, theirs in zip(*results, strict=True):
        assert (ours - theirs).norm() <= tolerance * theirs.norm()


def test_without_grad_and_without_rows():
    hidden, weight, labels, mask, _ = make_inputs({})
    with torch.no_grad():
        scores = linear_scores(hidden, weight, labels, mask)
    assert not scores.label_logprob.requires_grad
    none = linear_scores(hidden[:0], weight, labels[:0], mask, keep_directions=True)
    assert none.label_logprob.shape == (0,)
    (none.label_logprob.sum() + none.boundary_logprob.sum()).backward()
    assert weight.grad.eq(0).all()
