"""A model as it lies on disk, before anything is built: config, architecture, weights by name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from tokenkit.errors import ModelError
from tokenkit.log import logger, warn_once
from tokenkit.models.architectures import Architecture, architecture_of
from tokenkit.models.checks import check_config, check_matrices, read_config
from tokenkit.models.expanded_folder import is_expanded, plain_config, read_expansion
from tokenkit.models.vocabulary.expanded import Expansion
from tokenkit.models.weights import (
    SafetensorsSource,
    resolve_model_folder,
    vocabulary_matrices,
)


@dataclass
class SourceModel:
    """A model as it lies on disk, or as freshly drawn: config, architecture, weights by name.

    Attributes:
        expansion: of a byte-level model that reads subwords, too; its config is that of the
            family without them.
    """

    hf_config: Any
    architecture: Architecture
    weights: Mapping[str, Tensor]
    tied: bool
    trust_remote_code: bool = False
    folder: Path | None = None
    expansion: Expansion | None = None
    attn_implementation: str = ""  # where it was asked for

    @property
    def width(self) -> int:
        """Of hidden states, D."""
        return self.hf_config.hidden_size

    def matrices(self) -> tuple[Tensor, Tensor | None]:
        """Input and output matrix ``[V, D]`` (output None if tied)."""
        parts = self.architecture
        found = vocabulary_matrices(self.weights, parts.prefix, parts.embedding, self.tied)
        embedding = f"{parts.prefix}{parts.embedding}"
        check_matrices(*found, self.width, embedding, str(self.folder))
        return found


def open_source_model(
    model: str,
    *,
    init: str = "pretrained",
    vocab_rows: int | None = None,
    seed: int = 0,
    attn_implementation: str = "",
    trust_remote_code: bool = False,
) -> SourceModel:
    """Open a model folder or hub id.

    Args:
        init: "pretrained" reads safetensors; "random" draws fresh weights from config.json
            alone, with ``vocab_rows`` rows, the same on every rank.

    Raises:
        ModelError: if it is missing, damaged, or of an unsupported family.
    """
    folder = resolve_model_folder(model)
    expanded = is_expanded(folder)
    if expanded and init == "random":
        raise ModelError(f"model '{model}' reads subwords beside bytes: it cannot be drawn anew")
    # Ours needs no trust: its code is here.
    hf_config = read_config(folder, trust_remote_code and not expanded)
    longest = int(getattr(hf_config, "longest_subword", 1))
    hf_config = plain_config(hf_config) if expanded else hf_config
    architecture = architecture_of(hf_config)
    check_config(hf_config, model)
    if attn_implementation:
        hf_config._attn_implementation = attn_implementation
    tied = bool(hf_config.tie_word_embeddings)
    if init == "random":
        if vocab_rows is not None:
            hf_config.vocab_size = vocab_rows
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            fresh = AutoModelForCausalLM.from_config(hf_config, dtype=torch.float32)
        weights: Mapping[str, Tensor] = fresh.state_dict()
    else:
        weights = SafetensorsSource(folder)
    expansion = read_expansion(weights, longest) if expanded else None
    return SourceModel(
        hf_config,
        architecture,
        weights,
        tied,
        trust_remote_code,
        Path(folder),
        expansion,
        attn_implementation,
    )


def saved_generation(folder: Path | None) -> dict[str, Any]:
    """A model folder's ``generation_config.json``, {} without one."""
    path = None if folder is None else folder / "generation_config.json"
    if path is None or not path.is_file():
        return {}
    values = json.loads(path.read_text(encoding="utf-8"))
    values.pop("transformers_version", None)
    return values


def fit_rows(matrix: Tensor, rows: int) -> Tensor:
    """Cut a matrix to ``rows`` rows, or extend it by rows equal to its mean."""
    if len(matrix) >= rows:
        return matrix[:rows]
    mean = matrix.float().mean(0, keepdim=True).to(matrix.dtype)
    return torch.cat([matrix, mean.expand(rows - len(matrix), -1)])


def reconcile_rows(source: SourceModel, tokenizer_rows: int, name: str) -> int:
    """Rows a vocabulary needs so that every id of the tokenizer has one; says what differs."""
    matrix_rows = len(source.matrices()[0])
    config_rows = source.hf_config.vocab_size
    if matrix_rows != config_rows:
        warn_once(
            f"{name}: config.vocab_size is {config_rows} but the matrix has {matrix_rows} rows; "
            f"using {matrix_rows}"
        )
    if tokenizer_rows > matrix_rows:
        warn_once(
            f"{name}: the tokenizer has {tokenizer_rows} ids but the matrix {matrix_rows} rows; "
            f"the {tokenizer_rows - matrix_rows} missing rows start at the mean"
        )
    elif tokenizer_rows < matrix_rows:
        logger.info(
            f"{name}: {matrix_rows - tokenizer_rows} of {matrix_rows} rows belong to no token"
        )
    return max(matrix_rows, tokenizer_rows)
