"""Write a model as a Hugging Face folder that plain ``transformers`` loads."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from tokenkit.errors import ModelError
from tokenkit.export.generation import translated_generation
from tokenkit.io import new_folder, refuse_existing
from tokenkit.models.causal_lm import SourceModel, parameters_on_meta
from tokenkit.models.expanded_folder import FILES, expanded_config, expansion_tensors
from tokenkit.models.vocabulary.expanded import Expansion
from tokenkit.ops.finite import fits, largest
from tokenkit.tokenizers import ByteifiedTokenizer


def exported_config(
    source: SourceModel,
    tokenizer: ByteifiedTokenizer,
    rows: int,
    tied: bool,
    expansion: Expansion | None = None,
) -> Any:
    """The source's config with the new vocabulary's size and special token ids."""
    config = copy.deepcopy(source.hf_config)
    config.vocab_size = rows
    config.tie_word_embeddings = tied
    config.pad_token_id = tokenizer.pad_id
    config.bos_token_id = tokenizer.bos_id
    config.eos_token_id = tokenizer.eos_id
    return config if expansion is None else expanded_config(config, expansion)


def hf_state_dict(
    source: SourceModel,
    backbone: dict[str, Tensor],
    inputs: Tensor,
    outputs: Tensor | None,
    expansion: Expansion | None = None,
) -> dict[str, Tensor]:
    """Backbone tensors by plain name, the matrices and more, under Hugging Face's names."""
    parts = source.architecture
    state = {f"{parts.prefix}{name}": tensor for name, tensor in backbone.items()}
    state[f"{parts.prefix}{parts.embedding}.weight"] = inputs
    state["lm_head.weight"] = inputs if outputs is None else outputs
    return state if expansion is None else state | expansion_tensors(expansion)


def cast(state: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Tensors by name, numbers with a fraction in ``dtype``.

    Raises:
        ModelError: naming the first that is not finite, or would not be.
    """
    name = str(dtype).removeprefix("torch.")
    floats = {key: tensor for key, tensor in state.items() if tensor.is_floating_point()}
    for key, tensor in floats.items():
        if not fits(tensor):
            raise ModelError(f"tensor '{key}' holds NaN or infinity; no model is written")
        if not fits(tensor, dtype):
            raise ModelError(
                f"tensor '{key}' has values up to {largest(tensor):.3g}, which {name} cannot hold; "
                "no model is written (--dtype float32 would hold them)"
            )
    return state | {key: tensor.to(dtype) for key, tensor in floats.items()}


def save_hf_folder(
    source: SourceModel,
    backbone: dict[str, Tensor],
    inputs: Tensor,
    outputs: Tensor | None,
    source_tok: ByteifiedTokenizer,
    tokenizer: ByteifiedTokenizer,
    output: Path,
    dtype: torch.dtype | None = None,
    expansion: Expansion | None = None,
    card: str = "",
) -> None:
    """Write config, safetensors, generation config and tokenizer; all of it appears at once.

    Args:
        backbone: plain tensors by name, adapters merged.
        inputs: ``[V, D]``.
        outputs: ``[V, D]``, or None if tied.
        source_tok: the source model's own, whose ids its generation config has.
        tokenizer: the one that the matrices belong to.
        dtype: of the saved tensors; default the source config's own.
        expansion: of a model that reads subwords beside bytes. Its folder has a modelling file of
            its own and wants ``trust_remote_code=True``.
        card: text of README.md; without one none is written.

    Raises:
        TokenkitError: if ``output`` is taken, or a tensor is not finite in ``dtype``.
    """
    refuse_existing(output, "output", "folder")
    dtype = dtype or getattr(source.hf_config, "dtype", None) or inputs.dtype
    config = exported_config(source, tokenizer, len(inputs), outputs is None, expansion)
    with parameters_on_meta():
        model = AutoModelForCausalLM.from_config(
            config, dtype=dtype, trust_remote_code=source.trust_remote_code
        )
    state = cast(hf_state_dict(source, backbone, inputs, outputs, expansion), dtype)
    model.load_state_dict(state, strict=True, assign=True)
    model.tie_weights()
    model.generation_config = translated_generation(source, source_tok, tokenizer)
    with new_folder(output) as partial:
        model.save_pretrained(partial)
        for file in () if expansion is None else FILES:
            shutil.copyfile(file, partial / file.name)
        tokenizer.save(partial)
        if card:
            (partial / "README.md").write_text(card, encoding="utf-8")
