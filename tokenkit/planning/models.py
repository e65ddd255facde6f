"""The models of a run on the meta device: shapes of all tensors, no memory, no weights read."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig

from tokenkit.config import Config
from tokenkit.config.local_paths import tokenizer_path
from tokenkit.config.validate_paths import conversions, looks_local
from tokenkit.errors import ConfigError, ModelError
from tokenkit.losses import LOSSES, Loss, need_teacher
from tokenkit.models.architectures import architecture_of
from tokenkit.models.causal_lm import CausalLM, build_causal_lm, build_vocabulary
from tokenkit.models.checks import check_config, read_config
from tokenkit.models.source import SourceModel
from tokenkit.models.vocabulary.expanded import Expansion
from tokenkit.models.vocabulary.table import Vocabulary
from tokenkit.parallelisms import DTYPES
from tokenkit.planning.known import known
from tokenkit.planning.layout import Layout, LayoutError
from tokenkit.tokenizers import load_tokenizer
from tokenkit.training.student import student_frame
from tokenkit.training.teacher import LiveTeacher, SelfTeacher, Teacher

BYTES = 265  # tokens of a tokenizer of bytes: a few special ones beside 256
DIVIDED = ("num_attention_heads", "num_key_value_heads", "intermediate_size")


@dataclass(frozen=True)
class Shapes:
    """What is known of a run's models without their weights.

    Attributes:
        student, teacher: sources; the teacher's is None without a model of its own.
        source_tokens, student_tokens, teacher_tokens: sizes of tokenizers.
        guessed: hub ids whose shapes come from a table.
    """

    student: SourceModel
    teacher: SourceModel | None
    source_tokens: int
    student_tokens: int
    teacher_tokens: int
    guessed: tuple[str, ...]


@dataclass
class PlannedModels:
    """Models as one rank holds them whole, before they are sharded.

    Attributes:
        teacher: None without one, and with a cache.
        teacher_model: its own model; None where the student teaches itself.
        beside: the source vocabulary, where the student teaches itself.
    """

    student: CausalLM
    losses: list[Loss]
    teacher: Teacher | None
    teacher_model: CausalLM | None = None
    beside: Vocabulary | None = None


def _cached(name: str, file: str) -> Path | None:
    """The folder of the hub's cache that has a model's file; nothing is downloaded."""
    from huggingface_hub import try_to_load_from_cache

    repository, _, revision = name.partition("@")
    try:
        found = try_to_load_from_cache(repository, file, revision=revision or None)
    except ValueError:  # no name of a repository
        return None
    return Path(found).parent if isinstance(found, str) else None


def _not_here(key: str, name: str) -> ConfigError:
    return ConfigError(
        f"{key} = '{name}': neither in the cache of the hub nor among the shapes that the planner "
        "knows; run `tokenkit fetch` first, or name a folder with config.json"
    )


def open_shape(key: str, name: str, trust_remote_code: bool = False) -> SourceModel:
    """A source without weights, of a folder or cached model's config.json, or of the table.

    Raises:
        ConfigError: if the model is not here and not in the table.
        ModelError: if its config cannot be used.
    """
    folder = Path(name).expanduser()
    if not folder.is_dir():
        if looks_local(name):
            raise ModelError(f"{key} = '{name}': no such folder")
        cached, published = _cached(name, "config.json"), known(name)
        if cached is None and published is None:
            raise _not_here(key, name)
        if cached is None:
            config = AutoConfig.for_model(published.model_type, **published.values)
            return _source(config, name, trust_remote_code)
        folder = cached
    if not (folder / "config.json").is_file():
        raise ModelError(f"model folder '{name}' has no config.json")
    return _source(read_config(folder, trust_remote_code), name, trust_remote_code)


def _source(hf_config: Any, name: str, trust_remote_code: bool) -> SourceModel:
    if hasattr(hf_config, "longest_subword"):
        raise ConfigError(f"'{name}' reads subwords beside bytes: such a model is not planned yet")
    architecture = architecture_of(hf_config)
    check_config(hf_config, name)
    tied = bool(hf_config.tie_word_embeddings)
    return SourceModel(hf_config, architecture, {}, tied, trust_remote_code, Path(name))


def count_tokens(key: str, spec: str) -> int:
    """Tokens of the tokenizer that a spec names, loaded if it is here, else by the table."""
    path = tokenizer_path(spec)
    if "byte" in conversions(spec):
        return BYTES
    if looks_local(path) or Path(path).exists() or _cached(path, "tokenizer.json") is not None:
        return len(load_tokenizer(spec))
    published = known(path)
    if published is None:
        raise _not_here(key, path)
    return published.tokens


def open_shapes(config: Config) -> Shapes:
    """Shapes of the run's models and sizes of its tokenizers; downloads nothing.

    Raises:
        ConfigError: if something is not here, or no plan can be made of it.
    """
    student, teacher = config.student, config.teacher
    if config.hypernet.architecture or config.tokenizer_sampler.enable:
        raise ConfigError("hypernet.architecture: the planner does not know hypernetworks yet")
    source = open_shape("student.model", student.model, student.trust_remote_code)
    _attend(source, student.attn_implementation)
    source_tokens = count_tokens("student.tokenizer", student.tokenizer)
    if student.init == "random":
        source.hf_config.vocab_size = source_tokens
    target = student.target_tokenizer
    student_tokens = count_tokens("student.target_tokenizer", target) if target else source_tokens
    student_tokens += len(student.tokens_to_add)
    theirs, teacher_tokens = None, source_tokens
    if need_teacher(config) and teacher.model and not teacher.cache:
        theirs = open_shape("teacher.model", teacher.model, teacher.trust_remote_code)
        _attend(theirs, teacher.attn_implementation)
        teacher_tokens = count_tokens("teacher.tokenizer", teacher.tokenizer)
    names = (student.model, teacher.model if theirs else "")
    guessed = tuple(n for n in names if n and not Path(n).expanduser().is_dir()
                    and _cached(n, "config.json") is None)  # fmt: skip
    return Shapes(source, theirs, source_tokens, student_tokens, teacher_tokens, guessed)


def _attend(source: SourceModel, implementation: str) -> None:
    if implementation:
        source.hf_config._attn_implementation = implementation


def split(source: SourceModel, degree: int) -> SourceModel:
    """A source with the layers that one of ``degree`` tensor-parallel ranks computes.

    Raises:
        LayoutError: if they cannot be divided so.
    """
    if degree == 1:
        return source
    config = copy.deepcopy(source.hf_config)
    if not source.architecture.tensor_parallel_plan:
        raise LayoutError(f"model_type '{config.model_type}' has no tensor-parallel plan")
    config.head_dim = getattr(config, "head_dim", None) or (
        config.hidden_size // config.num_attention_heads
    )
    for name in DIVIDED:
        if getattr(config, name) % degree:
            raise LayoutError(f"{degree} tensor-parallel ranks do not divide {name}")
        setattr(config, name, getattr(config, name) // degree)
    made = copy.copy(source)
    made.hf_config = config
    return made


def build_models(
    config: Config, shapes: Shapes, dtype: torch.dtype, layout: Layout | None = None
) -> PlannedModels:
    """Student, losses and teacher on the meta device, in one dtype.

    Args:
        layout: the models are one tensor-parallel rank's part; None: they are whole.

    Raises:
        LayoutError: if they cannot be divided so.
    """
    degree = layout.tp if layout else 1
    source = split(shapes.student, degree)
    rows = shapes.student.hf_config.vocab_size
    target = config.student.target_tokenizer or config.student.tokens_to_add
    wanted = shapes.student_tokens if target else max(rows, shapes.source_tokens)
    expansion = None
    if config.student.expand_input_ids:
        table = torch.empty(rows, source.width, device="meta")
        expansion = Expansion(table, trie=None, longest=1)
    student = student_frame(
        config, source, -(-wanted // degree), dtype=dtype, expansion=expansion,
        valid_vocab=-(-shapes.student_tokens // degree),
    )  # fmt: skip
    theirs = shapes.teacher or shapes.student
    with torch.device("meta"):
        losses = [LOSSES.get(name)(config) for name in config.loss.names]
        for loss in losses:
            loss.add_parameters(source.width, theirs.width)
    student.adopt({loss.name: loss for loss in losses if any(True for _ in loss.parameters())})
    _set_boundary(student.vocabulary)
    models = PlannedModels(student, losses, None)
    if not need_teacher(config) or config.teacher.cache:
        return models
    theirs = split(theirs, layout.teacher_degrees.tp if layout else 1)
    compute = DTYPES[config.training.dtype]
    # Ranks with different rows, which split its layers, each score their own by the whole matrix.
    parts = layout.teacher_degrees.tp if layout and layout.rows_together == 1 else 1
    rows = -(-max(theirs.hf_config.vocab_size, shapes.teacher_tokens) // parts)
    options: dict[str, Any] = {"tied": theirs.tied, "valid_vocab": rows, "dtype": compute}
    if shapes.teacher is None and config.student.train != "full":
        models.beside = build_vocabulary(theirs, rows, **options)
        _set_boundary(models.beside)
        models.teacher = SelfTeacher(student, models.beside)
        return models
    models.teacher_model = build_causal_lm(theirs, rows, **options)
    _set_boundary(models.teacher_model.vocabulary)
    models.teacher = LiveTeacher(models.teacher_model)
    return models


def _set_boundary(vocabulary: Vocabulary) -> None:
    vocabulary.set_boundary(torch.empty(vocabulary.input.shape[0], dtype=torch.bool, device="meta"))


def compute_dtype(config: Config) -> torch.dtype:
    """What the models compute in."""
    return DTYPES[config.training.dtype]
