"""A whole model moved to another tokenizer: new vocabulary, everything else as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tokenkit.errors import ModelError
from tokenkit.export.folder import save_hf_folder
from tokenkit.io import refuse_existing
from tokenkit.models.causal_lm import open_source_model
from tokenkit.models.checks import check_token_rows
from tokenkit.models.weights import backbone_tensors
from tokenkit.tokenizers import ByteifiedTokenizer, load_tokenizer, parse_spec
from tokenkit.transfer.omp import Donor
from tokenkit.transfer.registry import INITIALIZERS


def transfer_model(
    model: str,
    source_tok: ByteifiedTokenizer,
    target_tok: ByteifiedTokenizer,
    output: Path,
    *,
    method: str = "fvt",
    seed: int = 0,
    device: torch.device | str = "cpu",
    **options: Any,
) -> dict[str, int]:
    """Write a model folder with the target's vocabulary.

    Args:
        model: hub id or local folder.
        method: a name in :data:`INITIALIZERS`.
        seed: of the rows that are drawn.
        device: where the new matrices are computed.
        options: keyword arguments of the method.

    Returns:
        The number of tokens by origin.

    Raises:
        TokenkitError: if the method is unknown, the output is taken, or the model unusable.
    """
    refuse_existing(output, "output", "folder")
    initialize = INITIALIZERS.get(method)
    source = open_source_model(model)
    if source.expansion is not None:
        raise ModelError(
            f"model '{model}' reads subwords beside bytes, so it keeps its tokenizer: move the "
            "model it was made from"
        )
    inputs, outputs = source.matrices()
    check_token_rows(source_tok, len(inputs), model)
    known = [matrix.to(device) for matrix in (inputs, outputs) if matrix is not None]
    made, report = initialize(source_tok, target_tok, known, seed=seed, **options)
    made = [matrix.cpu() for matrix in made]
    backbone = backbone_tensors(
        source.weights, source.architecture.prefix, source.architecture.embedding
    )
    new_outputs = None if outputs is None else made[1]
    save_hf_folder(source, backbone, made[0], new_outputs, source_tok, target_tok, output)
    return report


def open_donor(spec: str, device: torch.device | str = "cpu") -> Donor:
    """A donor for OMP: the matrices and the tokenizer of a model folder or hub id.

    Args:
        spec: the model's tokenizer spec; its path is the model.

    Raises:
        TokenkitError: if there is no model or no tokenizer.
    """
    tok = load_tokenizer(spec)
    parsed = parse_spec(spec)
    name = f"{parsed.path}@{parsed.revision}" if parsed.revision else parsed.path
    inputs, outputs = open_source_model(name).matrices()
    return Donor(tok, inputs.to(device), None if outputs is None else outputs.to(device))
