"""The hypernetwork and the vocabulary it predicts."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from tokenkit.batch import Sequences
from tokenkit.config.schema_hypernet import HypernetConfig
from tokenkit.models.hypernet import Hypernet, moments
from tokenkit.models.vocabulary import hypernet as hypernet_vocabulary
from tokenkit.models.vocabulary.hypernet import build_hypernet_vocabulary, fill_hypernet
from tokenkit.models.vocabulary.table import Vocabulary
from tokenkit.tokenizers.sampling.token_forms import TokenForms

SOURCE, WIDTH = 40, 16
VARIANTS = [
    {},
    {"use_attention": False},
    {"pooling": "mean", "residual_pooling": "mean"},
    {"shared": False},
    {"multiply_hidden_dim_by_num_embeddings": False},
    {"architecture": "linear"},
    {"architecture": "identity"},
]


def settings(**changes) -> HypernetConfig:
    known = {"architecture": "transformer", "num_layers": 2, "num_heads": 4}
    return HypernetConfig(**{**known, "max_surface_length": 4, **changes})


def vocabulary(config: HypernetConfig, tied: bool = False, disturb: bool = True):
    """A filled vocabulary; ``disturb`` moves the network away from its first values."""
    table = Vocabulary(SOURCE, WIDTH, tied=tied, valid_vocab=SOURCE)
    made = build_hypernet_vocabulary(config, table, torch.float32).to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    matrices = [torch.randn(SOURCE, WIDTH, generator=generator) * 0.3 + 0.1 for _ in range(2)]
    made.input.data.copy_(matrices[0])
    if not tied:
        made.output.data.copy_(matrices[1])
    fill_hypernet(made, (matrices[0], None if tied else matrices[1]), 0)
    if disturb:
        for parameter in made.hypernet.networks.parameters():
            parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    return made


def forms(rows: int = 25, valid: int = 23, source_rows: int = SOURCE) -> TokenForms:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(source_rows, (rows, 4), generator=generator)
    lengths = torch.randint(1, 5, (rows,), generator=generator)
    copied = torch.zeros(rows, dtype=torch.bool)
    copied[[2, 7]] = True
    lengths[copied] = 1
    return TokenForms(ids, lengths, copied, copied, lengths == 1, valid, SOURCE)


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
def test_tokens_that_spell_themselves_start_as_they_are(changes):
    made = vocabulary(settings(**changes), disturb=False)
    with made.step(None, made.predict):
        torch.testing.assert_close(made.input_matrix, made.input, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(made.output_matrix, made.output, rtol=1e-5, atol=1e-6)


def test_without_residual_the_first_prediction_has_the_statistics_of_the_source():
    made = vocabulary(settings(residual=False), disturb=False)
    with made.step(None, made.predict):
        found = moments(torch.stack([made.input_matrix, made.output_matrix], 1))
    wanted = moments(torch.stack([made.input, made.output], 1))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
@pytest.mark.parametrize("mask", [True, False])
def test_chunks_and_order_do_not_matter(changes, mask, monkeypatch):
    """Against the network called once on everything, token by token; gradients too."""
    made = vocabulary(settings(**changes, use_attention_mask=mask))
    table = forms()
    given = torch.stack([made.input, made.output], -2)[table.ids]
    whole = made.hypernet(given, table.mask)
    whole = torch.where(table.copied[:, None, None], given[:, 0], whole)
    weight = torch.randn(whole.shape, generator=torch.Generator().manual_seed(2))
    parameters = [made.input, made.output, *made.hypernet.parameters()]
    wanted = torch.autograd.grad((whole * weight).sum(), parameters, allow_unused=True)

    monkeypatch.setitem(hypernet_vocabulary.CHUNK_BYTES, "cpu", 5000)
    with made.step(table, made.predict):
        torch.testing.assert_close(made.input_matrix, whole[:, 0].detach(), rtol=1e-5, atol=1e-6)
        for k, matrix in enumerate((made.input_matrix, made.output_matrix)):
            (0.5 * matrix * weight[:, k]).sum().backward()
            (0.5 * matrix * weight[:, k]).sum().backward()  # another micro-batch
    for parameter, expected in zip(parameters, wanted, strict=True):
        if expected is None or not expected.abs().sum():
            assert parameter.grad is None or not parameter.grad.abs().sum()
        else:
            torch.testing.assert_close(parameter.grad, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("changes", [{}, {"residual": False}, {"architecture": "linear"}], ids=str)
def test_rescalers_are_constants_made_of_the_source_vocabulary(changes):
    """x ↦ (x − mean) · √(2 / D) / std goes in; training moves neither this nor the way back."""
    made = vocabulary(settings(**changes), disturb=False)
    source = torch.stack([made.input, made.output], 1).detach()
    std, mean = torch.std_mean(source, 0, correction=0)
    wanted = (source - mean) / std * math.sqrt(2 / WIDTH)
    torch.testing.assert_close(made.hypernet.in_rescaler(source), wanted, rtol=1e-4, atol=1e-5)
    names = {f"{kind}_rescaler.{part}" for kind in ("in", "out") for part in ("weight", "bias")}
    assert not any("rescaler" in name for name, _ in made.hypernet.named_parameters())
    assert {name for name in made.hypernet.state_dict() if "rescaler" in name} == names

    before = {name: made.hypernet.state_dict()[name].clone() for name in names}
    optimizer = torch.optim.AdamW(made.parameters(), lr=0.1)
    with made.step(forms(), made.predict):
        (made.input_matrix.square().sum() + made.output_matrix.square().sum()).backward()
    optimizer.step()
    assert all(torch.equal(made.hypernet.state_dict()[name], before[name]) for name in names)


def test_embeddings_and_scores_use_the_prediction():
    made = vocabulary(settings(), tied=True)
    table = forms()
    ids, hidden = torch.tensor([[0, 2, 22, 7]]), torch.randn(1, 4, WIDTH)
    with made.step(table, made.predict):
        matrix = made.input_matrix.detach()
        assert made.rows == 25 and made.valid_vocab == 23
        assert torch.equal(made.embed(Sequences.of(ids)), matrix[ids])
        assert torch.equal(matrix[7], made.input[table.ids[7, 0]])
        scores = made.scores(hidden, Sequences.of(ids))
    assert made.tokens is None and made.boundary is None
    wanted = (hidden @ matrix[:23].T).log_softmax(-1)[0, :3].gather(1, ids[0, 1:, None])
    torch.testing.assert_close(scores.label_logprob[:3], wanted[:, 0], rtol=1e-5, atol=1e-5)


def test_boundaries_are_those_of_the_step_s_tokens():
    made, table = vocabulary(settings(), tied=True), forms()
    made.set_boundary(torch.zeros(SOURCE, dtype=torch.bool))
    table = replace(table, boundary=torch.arange(len(table)) % 3 == 0)
    ids, hidden = torch.tensor([[0, 2, 22, 7]]), torch.randn(1, 4, WIDTH)
    with made.step(table, made.predict):
        logprobs = (hidden[0] @ made.input_matrix.detach()[: table.valid].T).log_softmax(-1)
        found = made.scores(hidden, Sequences.of(ids)).boundary_logprob
    wanted = logprobs[:, table.boundary[: table.valid]].logsumexp(-1)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    assert not made.boundary.any()  # its own again


def test_bytes_have_embeddings_of_their_own():
    made = vocabulary(settings(byte_embeddings=True))
    table = forms(source_rows=SOURCE + 256)
    embeddings = made.embeddings_of(table.ids)
    byte = table.ids >= SOURCE
    assert torch.equal(embeddings[byte], made.extra[table.ids[byte] - SOURCE])
    assert torch.equal(embeddings[~byte][:, 0], made.input[table.ids[~byte]])
    std, mean = torch.std_mean(made.input, 0)
    assert (made.extra[:, 0].mean(0) - mean).abs().max() < 4 * std.max() / math.sqrt(256)
    with made.step(table, made.predict):
        made.input_matrix.sum().backward()
    assert made.extra.grad.abs().sum() > 0


def test_what_is_not_predicted_yet_cannot_be_used():
    made = vocabulary(settings())
    with pytest.raises(RuntimeError, match="open it first"):
        made.embed(Sequences.of(torch.tensor([[0]])))


def test_drawing_is_the_same_for_the_same_seed():
    config, embeddings = settings(), torch.randn(30, 2, WIDTH)
    first, second = Hypernet(config, 2, WIDTH), Hypernet(config, 2, WIDTH)
    for net in (first, second):
        net.initialize(embeddings, torch.Generator().manual_seed(4))
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)
