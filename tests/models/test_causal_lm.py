"""Backbone + vocabulary against transformers' own models."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from tests.models.tiny import FAMILIES, save_tiny, tiny_config
from tokenkit.batch import Sequences
from tokenkit.errors import ModelError
from tokenkit.models.causal_lm import build_causal_lm, fill
from tokenkit.models.outputs import Outputs
from tokenkit.models.source import fit_rows, open_source_model


def load(folder, rows=None, **kwargs):
    source = open_source_model(str(folder), **kwargs)
    inputs, outputs = source.matrices()
    rows = rows or len(inputs)
    model = build_causal_lm(
        source, rows, tied=source.tied, valid_vocab=len(inputs), dtype=torch.float32
    )
    fill(model, source, (inputs, outputs), torch.device("cpu"))
    return source, model


def hidden_states(model, ids):
    """Last hidden states ``[B, T, D]``."""
    return model(Sequences.of(ids), ()).hidden


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tied", [True, False])
def test_logits_equal_transformers(tmp_path, family, tied):
    folder = save_tiny(tmp_path / "m", family, tie_word_embeddings=tied)
    reference = AutoModelForCausalLM.from_pretrained(folder).eval()
    _, model = load(folder)
    ids = torch.randint(3, 96, (2, 20))
    with torch.no_grad():
        expected = reference(ids).logits
        logits = model.vocabulary.logits(hidden_states(model, ids))
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_scores_equal_transformers_with_padding(tmp_path, family):
    """Right padding is passed to transformers as a mask, to ours not at all."""
    folder = save_tiny(tmp_path / "m", family)
    reference = AutoModelForCausalLM.from_pretrained(folder).eval()
    _, model = load(folder, rows=104)  # padded vocabulary rows must not be predicted
    ids = torch.randint(3, 96, (2, 12))
    mask = torch.ones(2, 12, dtype=torch.bool)
    mask[1, 7:] = False
    boundary = torch.zeros(104, dtype=torch.bool)
    boundary[10:30] = True
    with torch.no_grad():
        logprobs = reference(ids, attention_mask=mask.long()).logits.log_softmax(-1)
        model.vocabulary.set_boundary(boundary)
        found = model(Sequences.of(ids, mask))
    expected = logprobs[:, :-1].gather(-1, ids[:, 1:, None]).squeeze(-1)
    predicted = mask[:, 1:]
    torch.testing.assert_close(
        found.token_logprob[:, 1:][predicted], expected[predicted], atol=1e-5, rtol=1e-5
    )
    assert found.token_logprob[~found.seq.scored].eq(0).all()
    torch.testing.assert_close(
        found.boundary_logprob[mask],
        logprobs[..., 10:30].logsumexp(-1)[mask],
        atol=1e-5,
        rtol=1e-5,
    )


def test_hidden_gradient_equals_autograd(tmp_path):
    _, model = load(save_tiny(tmp_path / "m", "gemma2"))
    ids = torch.randint(3, 96, (2, 9))
    mask = torch.arange(9) < torch.tensor([[9], [6]])
    seq = Sequences.of(ids, mask)
    model.vocabulary.set_boundary(torch.arange(96) % 3 == 0)
    hidden = hidden_states(model, ids).detach().requires_grad_()
    scores = model.vocabulary.scores(hidden, seq, keep_directions=True)
    outputs = Outputs(seq).with_scores(scores)
    a, b = torch.randn(2, 2, 9)
    loss = (a * outputs.token_logprob + b * outputs.boundary_logprob).sum()
    (expected,) = torch.autograd.grad(loss, hidden)
    ours = outputs.hidden_gradient(a, b)
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-4)


def test_random_init_is_transformers_init(tmp_path):
    tiny_config("llama").save_pretrained(tmp_path)
    source, model = load(tmp_path, init="random", vocab_rows=40, seed=3)
    assert model.vocabulary.input.shape == (40, 32)
    torch.manual_seed(3)
    reference = AutoModelForCausalLM.from_config(source.hf_config).state_dict()
    torch.testing.assert_close(model.vocabulary.input.data, reference["model.embed_tokens.weight"])
    name = "layers.1.mlp.up_proj.weight"
    torch.testing.assert_close(model.backbone.get_parameter(name).data, reference[f"model.{name}"])


def test_fit_rows():
    matrix = torch.tensor([[0.0, 2.0], [2.0, 4.0]])
    assert fit_rows(matrix, 1).tolist() == [[0.0, 2.0]]
    assert fit_rows(matrix, 4).tolist()[2:] == [[1.0, 3.0], [1.0, 3.0]]


def test_missing_folder_is_refused():
    with pytest.raises(ModelError, match=r"'\./nowhere' does not exist"):
        open_source_model("./nowhere")


def test_pickled_weights_are_refused(tmp_path):
    tiny_config("llama").save_pretrained(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80")
    with pytest.raises(ModelError, match="convert them to safetensors"):
        open_source_model(str(tmp_path))


def test_damaged_weights_are_refused(tmp_path):
    tiny_config("llama").save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(ModelError, match="not a readable safetensors file"):
        open_source_model(str(tmp_path))


def test_missing_tensor_is_named(tmp_path):
    folder = save_tiny(tmp_path / "m", "llama")
    for path in folder.glob("*.safetensors*"):
        path.unlink()
    save_file({"model.embed_tokens.weight": torch.zeros(96, 32)}, folder / "model.safetensors")
    with pytest.raises(ModelError, match=r"no tensor '(lm_head|model\.layers)"):
        load(folder)


def test_unsupported_family_is_named(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ModelError, match=r"'bert' is not supported.*llama"):
        open_source_model(str(tmp_path))
