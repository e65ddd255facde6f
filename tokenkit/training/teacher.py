"""The teacher is a source of outputs; the training step cannot tell one kind from another."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any, Protocol

import torch

from tokenkit.batch import Sequences
from tokenkit.config import Config
from tokenkit.losses import boundary_mask
from tokenkit.models.causal_lm import (
    CausalLM,
    build_causal_lm,
    build_vocabulary,
    fill,
    materialize,
)
from tokenkit.models.flops import ModelSize
from tokenkit.models.lora import adapters_off
from tokenkit.models.outputs import Outputs
from tokenkit.models.source import SourceModel, fit_rows, open_source_model, reconcile_rows
from tokenkit.models.vocabulary.table import Vocabulary
from tokenkit.parallelisms import (
    DTYPES,
    Parallel,
    parallelize_teacher,
    parallelize_vocabulary,
)
from tokenkit.tokenizers import joint_form
from tokenkit.training.environment import on_first_rank
from tokenkit.training.fit import check_fit, check_length
from tokenkit.training.teacher_cache import CachedTeacher, TeacherScores
from tokenkit.training.teacher_cache.meta import check_cache, read_meta
from tokenkit.training.tokenizers import Tokenizers


class Teacher(Protocol):
    """Anything that can read the teacher's side of a batch.

    Attributes:
        hf_config: the config of a model that can read any text; None if rows are fixed.
        size: of the model that reads; None if none does.
        known: what batches are to bring along, from a cache; None for a model.
    """

    hf_config: Any
    size: ModelSize | None
    known: TeacherScores | None

    def read(self, seq: Sequences, needs: Collection[str]) -> Outputs:
        """What ``needs`` names, without gradient."""
        ...


class LiveTeacher:
    """A frozen model of its own: a separate teacher, or a copy of the student as it started."""

    known: TeacherScores | None = None

    def __init__(self, model: CausalLM) -> None:
        self.model = model.requires_grad_(False)
        self.hf_config, self.size = model.backbone.config, ModelSize.of(self.model)

    @torch.no_grad()
    def read(self, seq: Sequences, needs: Collection[str]) -> Outputs:
        return trimmed(self.model(seq, needs), needs)


class SelfTeacher:
    """The student with its adapters off and the source vocabulary: one copy of the weights.

    Right when the backbone's base weights are frozen (``student.train`` = lora or none).
    """

    known: TeacherScores | None = None

    def __init__(self, student: CausalLM, source_vocabulary: Vocabulary) -> None:
        self.student, self.hf_config = student, student.backbone.config
        self.vocabulary = source_vocabulary.requires_grad_(False)
        self.size = ModelSize.of(student, self.vocabulary)

    @torch.no_grad()
    def read(self, seq: Sequences, needs: Collection[str]) -> Outputs:
        with adapters_off(self.student.backbone):
            return trimmed(self.student(seq, needs, vocabulary=self.vocabulary), needs)


def trimmed(outputs: Outputs, needs: Collection[str]) -> Outputs:
    """Without what nobody asked for, so that it need not be kept until the student has run."""
    return outputs if "hidden" in needs else outputs._replace(hidden=None)


def open_teacher_source(config: Config, tokenizers: Tokenizers) -> SourceModel | None:
    """The source of a teacher of its own; None without one (self-distillation, cache)."""
    if tokenizers.teacher is None or not config.teacher.model or config.teacher.cache:
        return None
    return open_source_model(
        config.teacher.model,
        attn_implementation=config.teacher.attn_implementation,
        trust_remote_code=config.teacher.trust_remote_code,
    )


def build_teacher(
    config: Config,
    source: SourceModel,
    student: CausalLM | None,
    tokenizers: Tokenizers,
    parallel: Parallel,
) -> Teacher | None:
    """The teacher the config asks for; None if no loss needs one.

    Args:
        source: the teacher's, or the student's for self-distillation.
        student: None where there is none: the teacher is a model of its own.
    """
    if tokenizers.teacher is None:
        return None
    if config.teacher.cache:
        folder = Path(config.teacher.cache).expanduser()
        form = joint_form(tokenizers.teacher, tokenizers.student)
        teacher_tok = tokenizers.teacher
        # One rank reads weights and data for their fingerprints.
        on_first_rank(lambda: check_cache(folder, config, teacher_tok, form))
        return CachedTeacher(TeacherScores(folder, read_meta(folder)))
    if config.teacher.model:
        check_fit(config, source, tokenizers.teacher, "teacher")
    else:  # the student as it started
        check_length(config, source, "teacher")
    rows = reconcile_rows(source, len(tokenizers.teacher), "teacher")
    inputs, outputs = source.matrices()
    matrices = (fit_rows(inputs, rows), None if outputs is None else fit_rows(outputs, rows))
    # Rows that belong to no token would only take probability from those that do.
    options: dict[str, Any] = {"tied": source.tied, "valid_vocab": len(tokenizers.teacher)}
    # Frozen weights need no fp32 masters.
    dtype = DTYPES[config.training.dtype]
    if student is not None and not config.teacher.model and config.student.train != "full":
        vocabulary = build_vocabulary(source, rows, dtype=dtype, **options)
        parallelize_vocabulary(vocabulary.requires_grad_(False), config, parallel.mesh)
        materialize(vocabulary, parallel.device)
        vocabulary.fill(*matrices)
        vocabulary.set_boundary(boundary_mask(tokenizers.teacher, config))
        return SelfTeacher(student, vocabulary)
    model = build_causal_lm(source, rows, dtype=dtype, **options).requires_grad_(False)
    parallelize_teacher(model, config, parallel)
    fill(model, source, matrices, parallel.device)
    model.vocabulary.set_boundary(boundary_mask(tokenizers.teacher, config))
    return LiveTeacher(model)
