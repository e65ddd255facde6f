"""A finished or interrupted run as a whole model on the CPU, for export and evaluation."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from tokenkit.config import Config, load_config
from tokenkit.errors import CheckpointError
from tokenkit.models.causal_lm import CausalLM
from tokenkit.models.lora import merge_state_dict
from tokenkit.models.source import SourceModel
from tokenkit.tokenizers.sampling.token_forms import TokenForms
from tokenkit.training.checkpoint import (
    load_tensors,
    open_checkpoint,
    tensors_to_save,
    whole_checkpoint,
)
from tokenkit.training.student import build_student, open_student_source
from tokenkit.training.tokenizers import Tokenizers, load_tokenizers


def load_run_config(run: Path) -> Config:
    """The settings of a run.

    Raises:
        CheckpointError: if the folder is no run.
    """
    if not (run / "config.toml").is_file():
        raise CheckpointError(f"'{run}' is not a run's output directory: it has no config.toml")
    return load_config(["--job.config_file", str(run / "config.toml")])


def load_run(run: Path, step: int = -1) -> tuple[Config, SourceModel, CausalLM, Tokenizers]:
    """Rebuild a run's student as of checkpoint ``step`` (-1: the latest, 0: as it started).

    Raises:
        CheckpointError: if the folder is no run, or has no such checkpoint, or a damaged one.
    """
    config = load_run_config(run)
    if step != 0:
        checkpoint = whole_checkpoint(run / "checkpoints", step)
    else:
        initial = config.checkpoint.initial_load
        checkpoint = open_checkpoint(initial) if initial else None
    tokenizers = load_tokenizers(config, needs_teacher=False)
    source = open_student_source(config, tokenizers)
    student = build_student(config, source, tokenizers, parallel=None)
    if checkpoint is not None:
        load_tensors(checkpoint, tensors_to_save(student, None))
    return config, source, student, tokenizers


@torch.no_grad()
def merged_tensors(
    config: Config, student: CausalLM, rows: int, forms: TokenForms | None = None
) -> tuple[dict[str, Tensor], Tensor, Tensor | None]:
    """Backbone tensors with adapters merged, input matrix and output matrix.

    Args:
        rows: of the matrices; the rest is padding and cut.
        forms: the vocabulary that a hypernetwork is to predict; default its own.
    """
    state = {name: p.detach() for name, p in student.backbone.named_parameters()}
    lora, transposed = config.lora, student.architecture.transposed
    backbone = merge_state_dict(state, lora.alpha, lora.rank, transposed)
    vocabulary = student.vocabulary
    with student.opened(forms):
        inputs, outputs = vocabulary.input_matrix.detach()[:rows], None
        if vocabulary.output is not None:
            outputs = vocabulary.output_matrix.detach()[:rows]
    return backbone, inputs, outputs
