"""A trained hypernetwork applied to any tokenizer: a model folder without further training."""

from __future__ import annotations

from pathlib import Path

import torch

from tokenkit.errors import CheckpointError
from tokenkit.export.folder import save_hf_folder
from tokenkit.io import refuse_existing
from tokenkit.log import logger
from tokenkit.tokenizers import ByteifiedTokenizer
from tokenkit.tokenizers.sampling.token_forms import forms_for
from tokenkit.training.restore import load_run, merged_tensors


@torch.no_grad()
def apply_hypernet(
    run: Path, target_tok: ByteifiedTokenizer, output: Path, step: int = -1
) -> dict[str, int]:
    """Write a model folder with the target's vocabulary, on the CPU, tokens in chunks.

    Args:
        run: output directory of a training run with ``tokenizer_sampler.enable``.
        step: its checkpoint (-1: the latest, 0: as it started).

    Returns:
        The number of tokens by origin: special (copied), exact (predicted from the same token),
        composed (from several), cut (longer than the hypernetwork reads).

    Raises:
        CheckpointError: if the run has no hypernetwork for sampled tokenizers, or no checkpoint.
        TokenkitError: if the output is taken, or a token cannot be spelt.
    """
    refuse_existing(output, "output", "folder")
    config, source, student, tokenizers = load_run(run, step)
    if not config.tokenizer_sampler.enable:
        raise CheckpointError(
            f"'{run}' trained no hypernetwork for other tokenizers: its config has "
            "tokenizer_sampler.enable = false"
        )
    rows = student.vocabulary.source_rows
    forms = forms_for(config, target_tok, tokenizers.source, rows)
    backbone, inputs, outputs = merged_tensors(config, student, forms.valid, forms)
    save_hf_folder(source, backbone, inputs, outputs, tokenizers.source, target_tok, output)
    special = int(forms.copied.sum())
    shared = int((forms.single & ~forms.copied).sum())
    if forms.cut:
        logger.warning(
            f"{forms.cut:,} tokens are longer than hypernet.max_surface_length = "
            f"{config.hypernet.max_surface_length} source tokens; their ends were not read"
        )
    composed = len(target_tok) - special - shared
    return {"special": special, "exact": shared, "composed": composed, "cut": forms.cut}
