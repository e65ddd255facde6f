"""Adapters: off at the start, mergeable, switchable."""

from __future__ import annotations

import pytest
import torch

from tests.models.test_causal_lm import hidden_states, load
from tests.models.tiny import save_tiny
from tokenkit.errors import ConfigError
from tokenkit.models.lora import adapters_off, add_lora, init_lora, merge_state_dict

LINEAR = ("Linear", "Conv1D")
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@pytest.fixture(params=["llama", "gemma3_text", "phi3", "gpt2"])
def model_with_adapters(request, tmp_path):
    source, model = load(save_tiny(tmp_path / "m", request.param))
    before = {name: p.detach().clone() for name, p in model.backbone.named_parameters()}
    targets = ["all-linear"] if request.param == "gpt2" else TARGETS
    add_lora(model.backbone, source.architecture, targets, rank=4, alpha=8.0)
    init_lora(model.backbone, seed=0)
    return model, before


def test_adapters_start_at_the_base_model(model_with_adapters):
    model, before = model_with_adapters
    ids = torch.randint(3, 96, (1, 7))
    state = {name: p.detach() for name, p in model.backbone.named_parameters()}
    merged = merge_state_dict(state, 8.0, 4, model.architecture.transposed)
    assert merged.keys() == before.keys()
    for name, tensor in before.items():
        torch.testing.assert_close(merged[name], tensor)
    with torch.no_grad(), adapters_off(model.backbone):
        off = hidden_states(model, ids)
    torch.testing.assert_close(hidden_states(model, ids), off)


def test_merged_weights_compute_the_same(model_with_adapters):
    model, _ = model_with_adapters
    with torch.no_grad():
        for name, parameter in model.backbone.named_parameters():
            if ".lora_b." in name:
                parameter.normal_()
    ids = torch.randint(3, 96, (2, 9))
    with torch.no_grad():
        adapted = hidden_states(model, ids)
        with adapters_off(model.backbone):
            base = hidden_states(model, ids)
        state = {name: p.detach().clone() for name, p in model.backbone.named_parameters()}
        merged = merge_state_dict(state, 8.0, 4, model.architecture.transposed)
        for name, parameter in model.backbone.named_parameters():
            if ".lora_" not in name:
                parameter.copy_(merged[name.replace(".base.", ".")])
        with adapters_off(model.backbone):
            torch.testing.assert_close(hidden_states(model, ids), adapted, atol=1e-4, rtol=1e-4)
    assert (adapted - base).abs().max() > 1e-3


def test_only_adapters_are_trained(model_with_adapters):
    model, _ = model_with_adapters
    trained = {n for n, p in model.backbone.named_parameters() if p.requires_grad}
    assert trained and all(".lora_" in name for name in trained)


@pytest.mark.parametrize("family", ["llama", "phi3", "gpt2"])
def test_all_linear_are_all(tmp_path, family):
    source, model = load(save_tiny(tmp_path / "m", family))
    wanted = {n for n, m in model.backbone.named_modules() if type(m).__name__ in LINEAR}
    add_lora(model.backbone, source.architecture, ["all-linear"], 4, 8.0)
    adapted = {n for n, m in model.backbone.named_modules() if type(m).__name__ == "LoRALinear"}
    assert adapted == wanted and len(wanted) == 2 * {"llama": 7}.get(family, 4)


def test_names_of_another_family_are_refused(tmp_path):
    source, model = load(save_tiny(tmp_path / "m", "gpt2"))
    words = "no linear layer 'q_proj'.*it has c_attn, c_fc, c_proj; \"all-linear\" takes all"
    with pytest.raises(ConfigError, match=words):
        add_lora(model.backbone, source.architecture, TARGETS, 4, 8.0)
