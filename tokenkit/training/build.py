"""From config to the things that train: tokenizers, student, teacher."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from tokenkit.config import Config
from tokenkit.errors import ConfigError
from tokenkit.log import logger
from tokenkit.losses import boundary_mask
from tokenkit.losses.base import Loss
from tokenkit.models.causal_lm import (
    CausalLM,
    SourceModel,
    build_causal_lm,
    build_vocabulary,
    fill,
    fill_vocabulary,
    fit_rows,
    materialize,
    open_source_model,
    reconcile_rows,
)
from tokenkit.models.lora import add_lora, init_lora
from tokenkit.models.vocabulary.hypernet_build import build_hypernet_vocabulary, fill_hypernet
from tokenkit.models.weights import copy_full
from tokenkit.parallelisms import DTYPES, Parallel, parallelize, parallelize_vocabulary
from tokenkit.tokenizers import (
    ByteifiedTokenizer,
    joint_form,
    load_tokenizer,
    warn_of_missing_bos,
)
from tokenkit.training.cache_meta import check_cache, read_meta
from tokenkit.training.teacher import LiveTeacher, SelfTeacher, TeacherSource
from tokenkit.training.teacher_cache import CachedTeacher
from tokenkit.transfer import INITIALIZERS


@dataclass
class Tokenizers:
    """The three roles a tokenizer can play; some may be one object."""

    source: ByteifiedTokenizer  # what the student's weights know
    student: ByteifiedTokenizer  # what the student is trained with
    teacher: ByteifiedTokenizer | None  # what the teacher reads; None without a teacher


def load_tokenizers(config: Config, needs_teacher: bool) -> Tokenizers:
    """Load the tokenizers that the config names."""
    student, date = config.student, config.chat.date
    source = load_tokenizer(student.tokenizer, date=date)
    target = source
    if student.target_tokenizer or student.tokens_to_add:
        spec = student.target_tokenizer or student.tokenizer
        target = load_tokenizer(spec, tuple(student.tokens_to_add), like=source, date=date)
        warn_of_missing_bos(source, target)
    if not needs_teacher:
        teacher = None
    elif config.teacher.tokenizer:
        teacher = load_tokenizer(config.teacher.tokenizer, date=date)
    elif config.teacher.cache and (spec := cached_spec(config)) != str(source.spec):
        teacher = load_tokenizer(spec, date=date)
    else:
        teacher = source
    if teacher is not None:
        joint_form(teacher, target)  # refuses what would be refused at the first row
        if teacher is not source:
            warn_of_missing_bos(teacher, target)
    return Tokenizers(source, target, teacher)


def cached_spec(config: Config) -> str:
    """The tokenizer spec of the teacher whose scores the config's cache holds."""
    return read_meta(Path(config.teacher.cache).expanduser())["tokenizer"]["spec"]


def fit_mask(mask: torch.Tensor, rows: int) -> torch.Tensor:
    """Extend a mask over tokens ``[len(tok)]`` to a matrix's rows; padding rows are False."""
    return F.pad(mask, (0, rows - len(mask)))


def boundary_masks(
    config: Config,
    student: CausalLM,
    teacher: TeacherSource | None,
    tokenizers: Tokenizers,
    losses: list[Loss],
    device: torch.device,
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Boundary tokens of student and teacher, ``[V]`` bool each; None where no loss needs them."""
    if teacher is None or not any("boundary" in loss.needs for loss in losses):
        return None, None
    rows = (student.vocabulary.input.shape[0], teacher.vocabulary_rows)
    masks = (
        boundary_mask(tokenizers.student, config),
        boundary_mask(tokenizers.teacher, config),
    )
    padded = [fit_mask(mask, n).to(device) for mask, n in zip(masks, rows, strict=True)]
    return padded[0], padded[1]


def round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def student_rows(source: SourceModel, tokenizers: Tokenizers) -> int:
    """Rows of the student's matrices, without padding.

    With the source's own tokenizer, the rows that belong to no token stay too.
    """
    rows = len(tokenizers.student)
    own = tokenizers.student is tokenizers.source
    return max(rows, len(source.matrices()[0])) if own else rows


def initial_matrices(
    config: Config, source: SourceModel, tokenizers: Tokenizers
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Input and output matrix of the student's vocabulary at step 0, :func:`student_rows` rows.

    A new tokenizer's rows are made from the source's by ``student.embedding_init``.
    """
    inputs, outputs = source.matrices()
    rows = student_rows(source, tokenizers)
    if tokenizers.student is tokenizers.source:
        return fit_rows(inputs, rows), None if outputs is None else fit_rows(outputs, rows)
    initialize = INITIALIZERS.get(config.student.embedding_init)
    known = [m for m in (inputs, outputs) if m is not None]
    made, report = initialize(tokenizers.source, tokenizers.student, known, seed=config.job.seed)
    counts = ", ".join(f"{count} {kind}" for kind, count in report.items())
    logger.info(f"new vocabulary of {rows} tokens by {config.student.embedding_init}: {counts}")
    return made[0], None if outputs is None else made[1]


def build_losses(
    config: Config,
    factories: Sequence[Callable[..., Loss]],
    tokenizers: Tokenizers,
    student: SourceModel,
    teacher: SourceModel | None,
) -> list[Loss]:
    """The losses the config names; parameters of their own are drawn, the same on all ranks.

    Raises:
        ConfigError: if a loss needs more of the teacher than the cache holds.
    """
    losses = [make(config, tokenizers.student, tokenizers.teacher) for make in factories]
    for loss in losses if config.teacher.cache else ():
        if loss.needs_teacher and loss.needs - {"label", "boundary"}:
            raise ConfigError(
                f"teacher.cache holds log-probs only, but loss '{loss.name}' needs the teacher's "
                f"{', '.join(sorted(loss.needs - {'label', 'boundary'}))}: name teacher.model"
            )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.job.seed)
        for loss in losses:
            if hasattr(loss, "add_parameters"):
                teacher_config = (teacher or student).hf_config
                loss.add_parameters(student.hf_config.hidden_size, teacher_config.hidden_size)
    return losses


def build_student(
    config: Config,
    source: SourceModel,
    tokenizers: Tokenizers,
    parallel: Parallel | None,
    losses: Sequence[Loss] = (),
) -> CausalLM:
    """The student with its new vocabulary at step 0, fp32 masters.

    Without ``parallel`` it is whole and on the CPU. Parameters of the losses become its own.
    """
    student = config.student
    inputs, outputs = initial_matrices(config, source, tokenizers)
    tied = source.tied and student.output_embeddings == "preserve"
    model = build_causal_lm(
        source,
        round_up(len(inputs), student.pad_vocab_multiple),
        tied=tied,
        valid_vocab=len(tokenizers.student),
        dtype=torch.float32,
    )
    if student.train == "lora":
        add_lora(
            model.backbone,
            source.architecture,
            config.lora.targets,
            config.lora.rank,
            config.lora.alpha,
        )
    elif student.train == "none":
        model.backbone.requires_grad_(False)
    if config.hypernet.architecture:
        length = config.hypernet.max_surface_length if config.tokenizer_sampler.enable else 1
        model.vocabulary = build_hypernet_vocabulary(
            replace(config.hypernet, max_surface_length=length),
            model.vocabulary,
            DTYPES[config.training.dtype],
        )
        model.vocabulary.group = None if parallel is None else parallel.shared_group
    for matrix in (model.vocabulary.input, model.vocabulary.output):
        if matrix is not None:
            matrix.requires_grad_(student.train_embeddings)
    drawn = model.adopt({loss.name: loss for loss in losses if isinstance(loss, nn.Module)})
    if parallel is not None:
        parallelize(model, config, parallel.mesh, train=True)
    device = torch.device("cpu") if parallel is None else parallel.device
    fill(model, source, (inputs, outputs), device)
    for name, values in drawn.items():
        copy_full(model.losses.get_parameter(name), values)
    if student.train == "lora":
        init_lora(model.backbone, config.job.seed)
    if config.hypernet.architecture:
        fill_hypernet(model.vocabulary, (inputs, outputs), config.job.seed)
    return model


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
    student: CausalLM,
    tokenizers: Tokenizers,
    parallel: Parallel,
) -> TeacherSource | None:
    """The teacher the config asks for; None if no loss needs one.

    Args:
        source: the teacher's, or the student's for self-distillation.
    """
    if tokenizers.teacher is None:
        return None
    if config.teacher.cache:
        folder = Path(config.teacher.cache).expanduser()
        meta = check_cache(folder, config, tokenizers.teacher)
        return CachedTeacher(folder, meta["rows"], len(tokenizers.teacher))
    rows = reconcile_rows(source, len(tokenizers.teacher), "teacher")
    inputs, outputs = source.matrices()
    matrices = (fit_rows(inputs, rows), None if outputs is None else fit_rows(outputs, rows))
    # Rows that belong to no token would only take probability from those that do.
    options = {"tied": source.tied, "valid_vocab": len(tokenizers.teacher)}
    # Frozen weights need no fp32 masters.
    dtype = DTYPES[config.training.dtype]
    if not config.teacher.model and config.student.train != "full":
        vocabulary = build_vocabulary(source, rows, dtype=dtype, **options)
        parallelize_vocabulary(vocabulary.requires_grad_(False), config, parallel.mesh)
        materialize(vocabulary, parallel.device)
        fill_vocabulary(vocabulary, *matrices)
        return SelfTeacher(student, vocabulary)
    model = build_causal_lm(source, rows, dtype=dtype, **options).requires_grad_(False)
    parallelize(model, config, parallel.mesh, train=False)
    fill(model, source, matrices, parallel.device)
    return LiveTeacher(model)


def open_student_source(config: Config, tokenizers: Tokenizers) -> SourceModel:
    """The student's source model, checked against its tokenizer."""
    source = open_source_model(
        config.student.model,
        init=config.student.init,
        vocab_rows=len(tokenizers.source),
        seed=config.job.seed,
        attn_implementation=config.student.attn_implementation,
        trust_remote_code=config.student.trust_remote_code,
    )
    reconcile_rows(source, len(tokenizers.source), "student")
    return source
