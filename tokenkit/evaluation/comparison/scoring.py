"""Bits of texts, and how sure one can be of their mean."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from tokenkit.batch import Sequences
from tokenkit.errors import DataError, ModelError
from tokenkit.evaluation.bits_per_byte import (
    document_bits,
    encode_documents,
    writable_texts,
)
from tokenkit.evaluation.comparison.entry import Entry
from tokenkit.inference.model import load_text_model, own_code
from tokenkit.inference.own_texts import OwnText
from tokenkit.inference.scores import PlainScores
from tokenkit.log import logger
from tokenkit.models.causal_lm import load_causal_lm
from tokenkit.models.checks import check_token_rows
from tokenkit.models.outputs import Outputs
from tokenkit.models.weights import resolve_model_folder
from tokenkit.tokenizers import ByteifiedTokenizer


@dataclass(frozen=True)
class Windows:
    """How texts are read; see :func:`tokenkit.evaluation.bits_per_byte.bits_per_byte`."""

    max_bytes: int
    batch_size: int
    device: torch.device


@dataclass(frozen=True)
class Texts:
    """Documents of a file that all tokenizers can write.

    Attributes:
        kept: the documents.
        left_out: number (from 1) and beginning of each of the others.
    """

    kept: list[str]
    left_out: list[tuple[int, str]]

    @property
    def sizes(self) -> np.ndarray:
        """Bytes of each document, ``[documents]``."""
        return sizes_of(self.kept)


def sizes_of(texts: Sequence[str]) -> np.ndarray:
    """UTF-8 bytes of texts, float64 ``[documents]``."""
    return np.array([len(text.encode("utf-8")) for text in texts], np.float64)


def writable_documents(
    file: str, texts: Sequence[str], toks: Sequence[ByteifiedTokenizer]
) -> Texts:
    """Those documents of a file that all tokenizers can write.

    Raises:
        DataError: if there is none.
    """
    try:
        kept = writable_texts(toks, texts)
    except DataError as error:
        raise DataError(f"--data {file}: {error}") from error
    left_out, rest = [], iter(kept)
    expected = next(rest, None)
    for number, text in enumerate(texts, 1):
        if text == expected:
            expected = next(rest, None)
        else:
            left_out.append((number, text[:60]))
    return Texts(kept, left_out)


def ratio(amounts: np.ndarray, sizes: np.ndarray) -> dict[str, float | None]:
    """Sum of amounts over sum of sizes, with its standard error over documents.

    That of a ratio estimator: sqrt(n / (n − 1) · Σ (aᵢ − r·sᵢ)²) / Σ sᵢ (Cochran, Sampling
    Techniques, 6.3). None for a single document.
    """
    n, value = len(amounts), float(amounts.sum() / sizes.sum())
    if n < 2:
        return {"value": value, "stderr": None}
    squares = float(((amounts - value * sizes) ** 2).sum())
    return {"value": value, "stderr": math.sqrt(n / (n - 1) * squares) / float(sizes.sum())}


@dataclass
class Scores:
    """What one model says of all texts; arrays are ``[documents]``."""

    bits: dict[str, np.ndarray]
    tokens: dict[str, int]
    own_bits: np.ndarray


def scorer(entry: Entry, device: torch.device) -> Callable[[Sequences, Collection[str]], Outputs]:
    """The model as eval-bpb reads it; one that only its own code can read, as that does."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    try:
        made = load_causal_lm(entry.folder, device, dtype, len(entry.tok))
    except ModelError:
        if not own_code(resolve_model_folder(entry.folder)):
            raise
        model = load_text_model(
            entry.folder, device=device, tok=entry.tok, trust_remote_code=entry.trusted
        )
        check_token_rows(entry.tok, model.rows, entry.name, as_it_is=True)
        return PlainScores(model.model, len(entry.tok))
    check_token_rows(entry.tok, len(made.vocabulary.input), entry.name, as_it_is=True)
    return made


def score(entry: Entry, data: dict[str, Texts], own: Sequence[OwnText], windows: Windows) -> Scores:
    """Bits of each document of each file, and of each of the teacher's own texts.

    Of a text that goes on from a prompt, only what the teacher wrote counts: bits of both together
    less those of the prompt alone.

    Raises:
        ModelError: if bits are not finite.
    """
    model = scorer(entry, windows.device)
    options: dict[str, Any] = {
        "max_bytes": windows.max_bytes,
        "batch_size": windows.batch_size,
        "device": windows.device,
    }

    def bits(texts: Sequence[str]) -> np.ndarray:
        found = document_bits(model, entry.tok, texts, **options).numpy()
        if not np.isfinite(found).all():
            raise ModelError(
                f"model '{entry.model}' gives {found[~np.isfinite(found)][0]} bits for a text: its "
                "activations overflow, or its weights are damaged"
            )
        return found

    found, tokens = {}, {}
    for file, texts in data.items():
        logger.info(f"{entry.name}: bits per byte of {file}")
        found[file] = bits(texts.kept)
        tokens[file] = sum(len(row.ids) for row in encode_documents(entry.tok, texts.kept))
    if not own:
        return Scores(found, tokens, np.zeros(0))
    prompts = sorted({text.prompt for text in own if text.prompt})
    known = dict(zip(prompts, bits(prompts), strict=True)) | {"": 0.0} if prompts else {"": 0.0}
    whole = bits([text.prompt + text.text for text in own])
    return Scores(found, tokens, whole - np.array([known[text.prompt] for text in own]))
