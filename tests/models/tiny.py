"""Tiny random Hugging Face models of every supported family, saved as folders."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM

FAMILIES = ["llama", "qwen2", "qwen3", "gemma2", "gemma3_text", "mistral", "phi3", "gpt2"]


def tiny_config(model_type: str, vocab_size: int = 96, **overrides):
    if model_type == "gpt2":
        values = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
    else:
        values = {
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "max_position_embeddings": 64,
            "pad_token_id": 0,
        }
    if model_type in ("gemma2", "gemma3_text"):
        values["sliding_window"] = 8
    values.update(vocab_size=vocab_size, bos_token_id=1, eos_token_id=2, **overrides)
    return AutoConfig.for_model(model_type, **values)


def save_tiny(folder: Path, model_type: str, seed: int = 0, **overrides) -> Path:
    """Save a model whose every parameter is random (norms and biases too)."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(tiny_config(model_type, **overrides))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder, max_shard_size="40KB")
    return folder
