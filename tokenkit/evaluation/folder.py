"""Bits per byte of a model folder on text of files: what scripts measure."""

from __future__ import annotations

import math

import torch

from tokenkit.config import config_from_dict
from tokenkit.data import load_validation_texts
from tokenkit.errors import DataError, ModelError
from tokenkit.evaluation.bits_per_byte import bits_per_byte
from tokenkit.models.causal_lm import load_causal_lm
from tokenkit.models.checks import check_token_rows
from tokenkit.tokenizers import ByteifiedTokenizer

ALL = 2**31 - 1


def read_texts(
    names: list[str], max_documents: int = ALL, text_field: str = "text", option: str = "--data"
) -> list[str]:
    """The first texts of files, folders or ``hf:name``.

    Raises:
        DataError: if a source cannot be read or none has text; the message names ``option``.
    """
    config = config_from_dict(
        {
            "data": {"validation": names, "text_field": text_field},
            "eval": {"max_documents": max_documents},
        }
    )
    try:
        return load_validation_texts(config)
    except DataError as error:
        reason = str(error).replace("data.validation = ", "")
        raise DataError(f"{option}: {reason}") from error


def folder_bits_per_byte(
    model: str,
    tok: ByteifiedTokenizer,
    texts: list[str],
    *,
    max_bytes: int = 2048,
    batch_size: int = 8,
    device: torch.device,
) -> float:
    """Bits per byte of a model folder or hub id, in bf16 on accelerators, else in fp32.

    Arguments are those of :func:`tokenkit.evaluation.bits_per_byte.bits_per_byte`.

    Raises:
        ModelError: if the result is not finite.
    """
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    loaded = load_causal_lm(model, device, dtype, len(tok))
    check_token_rows(tok, len(loaded.vocabulary.input), model, as_it_is=True)
    bits = bits_per_byte(
        loaded, tok, texts,
        max_bytes=max_bytes, batch_size=batch_size, device=device,
    )  # fmt: skip
    if not math.isfinite(bits):
        raise ModelError(
            f"model '{model}' gives {bits} bits per byte: its activations overflow in "
            f"{str(dtype).removeprefix('torch.')}, or its weights are damaged"
        )
    return bits
