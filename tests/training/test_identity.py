"""The identity phase: its loss and gradients on a case worked out by hand, and by plain torch."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.training.recorder import Recorder
from tokenkit.batch import StepBatch
from tokenkit.config import config_from_dict
from tokenkit.models.causal_lm import CausalLM
from tokenkit.models.vocabulary.hypernet import build_hypernet_vocabulary, fill_hypernet
from tokenkit.models.vocabulary.table import Vocabulary
from tokenkit.training.identity import IdentityStep


def make(parallel, source: list[list[float]], tied: bool, tokens: int, **hypernet):
    """A student that is a vocabulary only, with frozen source matrices, and its step."""
    matrices = [torch.tensor(source), torch.tensor(source).flip(0) * 2]
    rows, width = matrices[0].shape
    config = config_from_dict(
        {
            "hypernet": {"residual": False, "identity_tokens": tokens, **hypernet},
            "training": {"max_grad_norm": 0.0},
        }
    )
    table = Vocabulary(rows, width, tied=tied, valid_vocab=rows)
    vocabulary = build_hypernet_vocabulary(config.hypernet, table, torch.float32)
    vocabulary.to_empty(device="cpu")
    for parameter, matrix in zip((vocabulary.input, vocabulary.output), matrices, strict=True):
        if parameter is not None:
            parameter.requires_grad_(False).copy_(matrix)
    fill_hypernet(vocabulary, (matrices[0], None if tied else matrices[1]), 0)
    student = CausalLM(nn.Identity(), vocabulary, None)
    recorder = Recorder(student)
    return config, student, recorder, IdentityStep(config, student, recorder, parallel)


def test_by_hand(parallel):
    """y = W x + b with W = [[1, 1], [0, 2]], b = (0, 1), and rescalers that do nothing.

    x = (1, 2):  y = (3, 5),  y − x = (2, 3),   its square 4 + 9 = 13
    x = (3, −1): y = (2, −1), y − x = (−1, 0),  its square 1
    loss = (13 + 1) / 2 = 7
    ∂/∂W = 2/2 Σ (y − x) xᵀ = [[2·1 − 1·3, 2·2 + 1·1], [3·1, 3·2]] = [[−1, 5], [3, 6]]
    ∂/∂b = 2/2 Σ (y − x) = (1, 3)
    norm = √(1 + 25 + 9 + 36 + 1 + 9) = √81 = 9
    """
    config, student, recorder, step = make(
        parallel, [[1.0, 2.0], [3.0, -1.0]], tied=True, tokens=10, architecture="linear"
    )
    net = student.vocabulary.hypernet
    for rescaler in (net.in_rescaler, net.out_rescaler):
        rescaler.set(torch.ones(1, 2), torch.zeros(1, 2))
    linear = net.networks[0].output
    linear.weight.data = torch.tensor([[1.0, 1.0], [0.0, 2.0]])
    linear.bias.data = torch.tensor([0.0, 1.0])
    metrics = step(StepBatch([]), 0)
    assert metrics["same/loss"] == metrics["same/loss/identity"] == 7.0
    assert metrics["same/grad_norm"] == 9.0
    weight, bias = recorder.gradients.values()
    assert weight.tolist() == [[-1.0, 5.0], [3.0, 6.0]] and bias.tolist() == [1.0, 3.0]

    config.training.max_grad_norm = 3.0
    step(StepBatch([]), 1)
    weight, bias = recorder.gradients.values()
    torch.testing.assert_close(weight, torch.tensor([[-1.0, 5.0], [3.0, 6.0]]) / 3)
    torch.testing.assert_close(bias, torch.tensor([1.0, 3.0]) / 3)


@pytest.mark.parametrize("tied", [True, False])
def test_against_plain_torch(tied, parallel):
    """Of a transformer, on the tokens that a step draws: mean over tokens and matrices."""
    torch.manual_seed(0)
    source = torch.randn(20, 8).tolist()
    options = {"architecture": "transformer", "num_layers": 1, "num_heads": 2}
    _, student, recorder, step = make(
        parallel, source, tied, tokens=7, max_surface_length=1, **options
    )
    vocabulary = student.vocabulary
    ids = step._draw(3)
    assert len(ids.unique()) == 7 and not torch.equal(ids, step._draw(4))
    known = [vocabulary.input] if tied else [vocabulary.input, vocabulary.output]
    wanted = torch.stack([matrix[ids] for matrix in known], 1)  # [7, n, 8]
    found = vocabulary.hypernet(wanted[:, None], torch.ones(7, 1, dtype=torch.bool))
    loss = ((found - wanted) ** 2).sum(-1).mean()
    loss.backward()
    gradients = {name: p.grad.clone() for name, p in student.named_parameters() if p.requires_grad}
    student.zero_grad(set_to_none=True)
    metrics = step(StepBatch([]), 3)
    torch.testing.assert_close(metrics["same/loss"], loss.detach())
    assert recorder.gradients.keys() == gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(recorder.gradients[name], gradient, rtol=1e-4, atol=1e-6)


def test_the_phase_teaches(parallel):
    """Adam on the step's gradients brings the distance down."""
    torch.manual_seed(0)
    _, student, _, step = make(
        parallel, torch.randn(20, 8).tolist(), True, 20, architecture="linear"
    )
    trained = [p for p in student.parameters() if p.requires_grad]
    step.optimizer = torch.optim.Adam(trained, lr=0.02)
    losses = [step(StepBatch([]), number)["same/loss"].item() for number in range(200)]
    assert losses[0] > 1.0 and losses[-1] < 0.05 * losses[0]
