"""Weights of losses against their definitions."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from tokenkit.balance import problems
from tokenkit.balance.gradmag import approx_gradmag_weights
from tokenkit.balance.mixtures import mixture
from tokenkit.balance.schedule import loss_weight
from tokenkit.balance.weighted import Mean
from tokenkit.config import config_from_dict
from tokenkit.ops.gradients import gram_matrices

LAMBDAS = torch.tensor([1.0, 2.0, 0.5])
NORMS = torch.tensor([4.0, 0.1, 2.0])


def test_mean():
    passes = SimpleNamespace(scale=LAMBDAS)
    mean = Mean(config_from_dict({}), 3, torch.device("cpu"))
    torch.testing.assert_close(mean.weigh(passes, None), LAMBDAS / 3)


def test_every_loss_gets_the_same_gradient_norm():
    weights = approx_gradmag_weights(NORMS, LAMBDAS, preserve_mag=False)
    torch.testing.assert_close(weights * NORMS, LAMBDAS)


def test_preserve_mag():
    equal = torch.ones(3)
    weights = approx_gradmag_weights(NORMS, equal, preserve_mag=True)
    torch.testing.assert_close(weights.sum(), torch.tensor(1.0))
    torch.testing.assert_close(weights * NORMS, (weights * NORMS).mean().expand(3))
    weighted = approx_gradmag_weights(NORMS, LAMBDAS, preserve_mag=True)
    torch.testing.assert_close(weighted, LAMBDAS * weights)
    single = approx_gradmag_weights(NORMS[:1], LAMBDAS[:1], preserve_mag=True)
    torch.testing.assert_close(single, LAMBDAS[:1])


@pytest.mark.parametrize("preserve_mag", [False, True])
def test_a_loss_without_gradient_gets_no_weight(preserve_mag):
    weights = approx_gradmag_weights(torch.tensor([0.0, 2.0]), torch.ones(2), preserve_mag)
    assert weights[0] == 0 and weights[1] == (1.0 if preserve_mag else 0.5)
    none = approx_gradmag_weights(torch.zeros(2), torch.ones(2), preserve_mag)
    assert none.tolist() == [0.0, 0.0]


def clipped(gradients, limit):
    """Whole gradients, each a list of parameters' parts, clipped as torch does."""
    for gradient in gradients:
        parameters = [torch.nn.Parameter(torch.zeros_like(part)) for part in gradient]
        for parameter, part in zip(parameters, gradient, strict=True):
            parameter.grad = part.clone()
        torch.nn.utils.clip_grad_norm_(parameters, limit)
        yield [parameter.grad for parameter in parameters]


def normalised(gradients):
    for gradient, weight in zip(gradients, LAMBDAS, strict=True):
        norm = torch.cat([part.flatten() for part in gradient]).norm()
        yield [weight * part / norm for part in gradient]


def without_conflicts(gradients):
    for i, gradient in enumerate(gradients):
        made = []
        for place, part in enumerate(gradient):
            new = part.clone()
            for j, other in enumerate(gradients):
                dot = (part * other[place]).sum()
                if j != i and dot < 0:
                    new -= dot / other[place].square().sum() * other[place]
            made.append(new)
        yield made


@pytest.mark.parametrize(
    ("stages", "steps"),
    [
        ([("gradclip", 2.5)], [lambda g: clipped(g, 2.5)]),
        ([("gradmag", 0.0)], [normalised]),
        ([("pcgrad", 0.0)], [without_conflicts]),
        ([("gradmag", 0.0), ("gradclip", 0.7)], [normalised, lambda g: clipped(g, 0.7)]),
        ([("gradclip", 2.5), ("pcgrad", 0.0)], [lambda g: clipped(g, 2.5), without_conflicts]),
    ],
    ids=lambda value: "+".join(name for name, *_ in value) if isinstance(value[0], tuple) else "",
)
def test_mixtures_are_made_of_weighted_gradients(stages, steps):
    generator = torch.Generator().manual_seed(1)
    gradients = [[torch.randn(4, 3, generator=generator), torch.randn(5, generator=generator)]
                 for _ in LAMBDAS]  # fmt: skip
    expected = [[w * part for part in g] for w, g in zip(LAMBDAS, gradients, strict=True)]
    for step in steps:
        expected = list(step(expected))
    factors = mixture(stages, gram_matrices(gradients, torch.device("cpu")), LAMBDAS)
    for place in range(2):
        given = torch.stack([gradient[place] for gradient in gradients])
        mixed = torch.einsum("lk,k...->l...", factors[place], given)
        torch.testing.assert_close(mixed, torch.stack([g[place] for g in expected]))


@pytest.mark.parametrize("name", ["gradmag", "gradclip", "pcgrad"])
def test_a_loss_of_weight_zero_is_not_there(name):
    generator = torch.Generator().manual_seed(2)
    gradients = [[torch.randn(6, generator=generator)] for _ in range(3)]
    gram = gram_matrices(gradients, torch.device("cpu"))
    with_zero = mixture([(name, 0.5)], gram, torch.tensor([1.0, 0.0, 2.0]))
    without = mixture([(name, 0.5)], gram[:, [0, 2]][:, :, [0, 2]], torch.tensor([1.0, 2.0]))
    torch.testing.assert_close(with_zero[:, [0, 2]][:, :, [0, 2]], without)
    assert not with_zero[:, 1].any() and not with_zero[:, :, 1].any()


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("constant", [1.0, 1.0, 1.0, 1.0]),
        ("linear", [0.0, 0.25, 0.5, 0.75]),
        ("reverse_linear", [1.0, 0.75, 0.5, 0.25]),
        ("cosine", [1.0, 0.5 + 0.5**1.5, 0.5, 0.5 - 0.5**1.5]),
        ("reverse_cosine", [0.0, 0.5 - 0.5**1.5, 0.5, 0.5 + 0.5**1.5]),
    ],
)
def test_schedules(kind, expected):
    assert [loss_weight(kind, step, 8) for step in (0, 2, 4, 6)] == pytest.approx(expected)


@pytest.mark.parametrize(("name", "refused"), [("pcgrad", True), ("", False), ("gradnorm", False)])
def test_mixtures_cannot_share_a_reduction(name, refused):
    tables = {"loss": {"aggregation": name}, "training": {"accumulate": "unsharded"}}
    said = [line for line in problems(config_from_dict(tables)) if "training.accumulate" in line]
    assert len(said) == refused
