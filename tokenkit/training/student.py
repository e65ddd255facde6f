"""The student: a source model with a new vocabulary, adapters, and the losses' parameters."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from tokenkit.config import Config
from tokenkit.errors import ModelError
from tokenkit.log import logger
from tokenkit.losses import Loss, boundary_mask
from tokenkit.models.causal_lm import (
    CausalLM,
    build_causal_lm,
    fill,
)
from tokenkit.models.lora import add_lora, init_lora
from tokenkit.models.source import SourceModel, fit_rows, open_source_model, reconcile_rows
from tokenkit.models.vocabulary import hypernet  # noqa: F401 (registered on import)
from tokenkit.models.vocabulary.expanded import Expansion
from tokenkit.models.vocabulary.registry import vocabulary_kind
from tokenkit.ops.copy_full import copy_full
from tokenkit.parallelisms import DTYPES, Parallel, parallelize, share_prediction
from tokenkit.training.fit import check_fit
from tokenkit.training.tokenizers import Tokenizers
from tokenkit.transfer import INITIALIZERS


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
    check_fit(config, source, tokenizers.source, "student")
    reconcile_rows(source, len(tokenizers.source), "student")
    return source


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


def expansion_of(source: SourceModel, tokenizers: Tokenizers) -> Expansion | None:
    """What the student's bytes are expanded by: the source's tokens; None without expansion."""
    expander = tokenizers.expander
    if expander is None:
        return None
    inputs, _ = source.matrices()
    rows = max(len(inputs), len(tokenizers.source))
    return Expansion(fit_rows(inputs, rows), expander.trie, expander.longest)


def student_frame(
    config: Config,
    source: SourceModel,
    rows: int,
    *,
    valid_vocab: int,
    expansion: Expansion | None,
    dtype: torch.dtype = torch.float32,
) -> CausalLM:
    """The student's modules on the meta device: adapters, kind of vocabulary, what is trained.

    Args:
        rows: of its matrices, without padding.
        expansion: see :func:`expansion_of`.
    """
    student = config.student
    model = build_causal_lm(
        source,
        round_up(rows, student.pad_vocab_multiple),
        tied=source.tied and student.output_embeddings == "preserve",
        valid_vocab=valid_vocab,
        dtype=dtype,
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
    kind = vocabulary_kind(config)
    if kind is not None:
        compute = DTYPES[config.training.dtype]
        model.vocabulary = kind.over(model.vocabulary, config, compute, expansion)
    for matrix in (model.vocabulary.input, model.vocabulary.output):
        if matrix is not None:
            matrix.requires_grad_(student.train_embeddings)
    return model


def build_student(
    config: Config,
    source: SourceModel,
    tokenizers: Tokenizers,
    parallel: Parallel | None,
    losses: Sequence[Loss] = (),
) -> CausalLM:
    """The student with its new vocabulary at step 0, fp32 masters.

    Without ``parallel`` it is whole and on the CPU. Parameters of the losses become its own.

    Raises:
        ModelError: if the source cannot have another tokenizer.
    """
    student = config.student
    if source.expansion is not None and tokenizers.student is not tokenizers.source:
        raise ModelError(
            f"student.model = '{student.model}' reads subwords beside bytes, so it keeps its "
            "tokenizer: leave student.target_tokenizer empty, or move the model it was made from"
        )
    inputs, outputs = initial_matrices(config, source, tokenizers)
    model = student_frame(
        config,
        source,
        len(inputs),
        valid_vocab=len(tokenizers.student),
        expansion=expansion_of(source, tokenizers),
    )
    drawn = model.adopt(
        {loss.name: loss for loss in losses if any(True for _ in loss.parameters())}
    )
    if parallel is not None:
        share_prediction(model.vocabulary, parallel)
        parallelize(model, config, parallel, train=True)
    device = torch.device("cpu") if parallel is None else parallel.device
    fill(model, source, (inputs, outputs), device)
    for name, values in drawn.items():
        copy_full(model.losses.get_parameter(name), values)
    model.vocabulary.set_boundary(boundary_mask(tokenizers.student, config))
    if student.train == "lora":
        init_lora(model.backbone, config.job.seed)
    model.vocabulary.initialize((inputs, outputs), config.job.seed)
    return model
