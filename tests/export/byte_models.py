"""Small byte-level students that read subwords, and their exported folders."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from tests.launch import SPEC_A
from tests.models.tiny import save_tiny
from tokenkit.config import config_from_dict
from tokenkit.export.folder import save_hf_folder
from tokenkit.models.causal_lm import CausalLM
from tokenkit.tokenizers import ByteifiedTokenizer
from tokenkit.training.restore import merged_tensors
from tokenkit.training.student import build_student, open_student_source
from tokenkit.training.tokenizers import load_tokenizers

SPEC_BYTES = f"{SPEC_A}:conversion=byte"


@dataclass(frozen=True)
class Exported:
    """A student, its tokenizer, and the folder that was made of them."""

    student: CausalLM
    tok: ByteifiedTokenizer
    folder: Path


@torch.no_grad()
def export_tiny(folder: Path, family: str, **overrides) -> Exported:
    """A student of this family with every trained parameter moved at random."""
    size = {"n_positions": 512} if family == "gpt2" else {"max_position_embeddings": 512}
    save_tiny(folder / "source", family, vocab_size=1505, **{**size, **overrides})
    settings = {"model": str(folder / "source"), "tokenizer": SPEC_A, "expand_input_ids": True,
                "target_tokenizer": SPEC_BYTES, "train": "full"}  # fmt: skip
    config = config_from_dict({"student": settings})
    tokenizers = load_tokenizers(config, needs_teacher=False)
    source = open_student_source(config, tokenizers)
    student = build_student(config, source, tokenizers, parallel=None)
    torch.manual_seed(1)
    for parameter in student.parameters():
        if parameter.requires_grad:
            parameter.add_(0.2 * torch.randn_like(parameter))
    made = merged_tensors(config, student, len(tokenizers.student))
    toks = tokenizers.source, tokenizers.student
    save_hf_folder(
        source, *made, *toks, folder / "exported", expansion=student.vocabulary.expansion
    )
    return Exported(student, tokenizers.student, folder / "exported")
