"""Write a model as a Hugging Face folder that plain ``transformers`` loads."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from tokenkit.errors import ModelError
from tokenkit.export.generation import translated_generation
from tokenkit.io import new_folder, refuse_existing
from tokenkit.models.causal_lm import SourceModel, parameters_on_meta
from tokenkit.ops.finite import fits, largest
from tokenkit.tokenizers import ByteifiedTokenizer


def exported_config(
    source: SourceModel, tokenizer: ByteifiedTokenizer, rows: int, tied: bool
) -> Any:
    """The source's config with the new vocabulary's size and special token ids."""
    config = copy.deepcopy(source.hf_config)
    config.vocab_size = rows
    config.tie_word_embeddings = tied
    config.pad_token_id = tokenizer.pad_id
    config.bos_token_id = tokenizer.bos_id
    config.eos_token_id = tokenizer.eos_id
    return config


def hf_state_dict(
    source: SourceModel, backbone: dict[str, Tensor], inputs: Tensor, outputs: Tensor | None
) -> dict[str, Tensor]:
    """Backbone tensors by plain name and the two matrices, under Hugging Face's names."""
    parts = source.architecture
    state = {f"{parts.prefix}{name}": tensor for name, tensor in backbone.items()}
    state[f"{parts.prefix}{parts.embedding}.weight"] = inputs
    state["lm_head.weight"] = inputs if outputs is None else outputs
    return state


def cast(state: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Tensors by name in ``dtype``.

    Raises:
        ModelError: naming the first that is not finite, or would not be.
    """
    name = str(dtype).removeprefix("torch.")
    for key, tensor in state.items():
        if not fits(tensor):
            raise ModelError(f"tensor '{key}' holds NaN or infinity; no model is written")
        if not fits(tensor, dtype):
            raise ModelError(
                f"tensor '{key}' has values up to {largest(tensor):.3g}, which {name} cannot hold; "
                "no model is written (--dtype float32 would hold them)"
            )
    return {key: tensor.to(dtype) for key, tensor in state.items()}


def save_hf_folder(
    source: SourceModel,
    backbone: dict[str, Tensor],
    inputs: Tensor,
    outputs: Tensor | None,
    source_tok: ByteifiedTokenizer,
    tokenizer: ByteifiedTokenizer,
    output: Path,
    dtype: torch.dtype | None = None,
) -> None:
    """Write config, safetensors, generation config and tokenizer; all of it appears at once.

    Args:
        backbone: plain tensors by name, adapters merged.
        inputs: ``[V, D]``.
        outputs: ``[V, D]``, or None if tied.
        source_tok: the source model's own, whose ids its generation config has.
        tokenizer: the one that the matrices belong to.
        dtype: of the saved tensors; default the source config's own.

    Raises:
        TokenkitError: if ``output`` is taken, or a tensor is not finite in ``dtype``.
    """
    refuse_existing(output, "output", "folder")
    dtype = dtype or getattr(source.hf_config, "dtype", None) or inputs.dtype
    config = exported_config(source, tokenizer, len(inputs), outputs is None)
    with parameters_on_meta():
        model = AutoModelForCausalLM.from_config(
            config, dtype=dtype, trust_remote_code=source.trust_remote_code
        )
    state = cast(hf_state_dict(source, backbone, inputs, outputs), dtype)
    model.load_state_dict(state, strict=True, assign=True)
    model.tie_weights()
    model.generation_config = translated_generation(source, source_tok, tokenizer)
    with new_folder(output) as partial:
        model.save_pretrained(partial)
        tokenizer.save(partial)
