"""What a model folder may hold: refused by name, before anything is computed from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig
from transformers.activations import ACT2FN
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from tokenkit.errors import ModelError
from tokenkit.registry import did_you_mean
from tokenkit.tokenizers import ByteifiedTokenizer
from tokenkit.tokenizers.ids import highest_own_id
from tokenkit.tokenizers.roles import context_id

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
         "intermediate_size", "head_dim", "vocab_size")  # fmt: skip


def read_config(folder: Path, trust_remote_code: bool = False) -> Any:
    """The transformers config of a folder. Raises ModelError if it cannot be read."""
    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except Exception as error:
        raise ModelError(f"config.json of model '{folder}' cannot be read: {error}") from error


def check_config(hf_config: Any, model: str) -> None:
    """Refuse a config.json that no model can be built of.

    Raises:
        ModelError: naming the first key that is wrong.
    """
    where = f"config.json of model '{model}':"
    quantisation = getattr(hf_config, "quantization_config", None)
    if quantisation is not None:
        values = quantisation if isinstance(quantisation, dict) else vars(quantisation)
        raise ModelError(
            f"{where} quantization_config (quant_method {values.get('quant_method')}): quantised "
            "weights are not supported; use the model's float weights"
        )
    for name in SIZES:
        size = getattr(hf_config, name, None)
        if size is not None and not (isinstance(size, int) and size > 0):
            raise ModelError(f"{where} {name} = {size!r} is not a size; expected at least 1")
    for name in ("hidden_act", "hidden_activation", "activation_function"):
        _check_name(where, name, getattr(hf_config, name, None), list(ACT2FN))
    ropes = getattr(hf_config, "rope_parameters", None) or {}
    kinds = ["default", *ROPE_INIT_FUNCTIONS]
    for rope in (ropes, *ropes.values()):
        if isinstance(rope, dict):
            _check_name(where, "rope_type", rope.get("rope_type"), kinds)


def _check_name(where: str, key: str, name: object, known: list[str]) -> None:
    if name is not None and name not in known:
        hint = did_you_mean(str(name), known)
        raise ModelError(f"{where} {key} = {name!r} is unknown to transformers{hint}")


def check_dtype(name: str, tensor: Tensor) -> Tensor:
    """The tensor, if it holds plain floating-point numbers.

    Raises:
        ModelError: for integers (quantised weights), float8, complex numbers and truth values.
    """
    if tensor.dtype not in DTYPES:
        dtype = str(tensor.dtype).removeprefix("torch.")
        raise ModelError(
            f"tensor '{name}' of the model's weights is {dtype}: quantised or other weights than "
            "float32, bfloat16 and float16 are not supported"
        )
    return tensor


def check_matrices(
    inputs: Tensor, outputs: Tensor | None, width: int, embedding: str, model: str
) -> None:
    """Refuse matrices that are no vocabulary of hidden states of this width.

    Raises:
        ModelError: naming the matrix and its shape.
    """
    where = f"model '{model}':"
    for name, matrix in ((f"{embedding}.weight", inputs), ("lm_head.weight", outputs)):
        if matrix is None:
            continue
        shape = tuple(matrix.shape)
        if len(shape) != 2 or shape[1] != width:
            raise ModelError(f"{where} {name} has shape {shape}, expected (tokens, {width})")
        if not shape[0]:
            raise ModelError(f"{where} {name} has no rows: no token is in it")
    if outputs is not None and len(outputs) != len(inputs):
        raise ModelError(
            f"{where} lm_head.weight has {len(outputs)} rows, but {embedding}.weight has "
            f"{len(inputs)}: both need one a token"
        )


def check_token_rows(
    tok: ByteifiedTokenizer, rows: int, model: str, as_it_is: bool = False
) -> None:
    """Refuse a tokenizer whose own tokens have no rows: it belongs to another model.

    Args:
        rows: of the model's matrices.
        as_it_is: the model gets no further rows, so what texts begin with must have one, too, be it
            a token that was added or not.

    Raises:
        ModelError: naming both sizes.
    """
    highest = highest_own_id(tok)
    if highest >= rows:
        raise ModelError(
            f"model '{model}' has rows for {rows} tokens, but tokenizer '{tok.spec}' has ids up "
            f"to {highest}: it is not this model's tokenizer"
        )
    first = context_id(tok)
    if as_it_is and first >= rows:
        raise ModelError(
            f"model '{model}' has rows for {rows} tokens and none for {tok.tokens[first]!r} (id "
            f"{first}), which texts of tokenizer '{tok.spec}' begin with: name the family that the "
            "model was trained with, or leave :source= out"
        )
