"""The tokenizers of a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tokenkit.config import Config
from tokenkit.tokenizers import (
    ByteifiedTokenizer,
    InputExpander,
    joint_form,
    load_tokenizer,
    warn_of_missing_bos,
)
from tokenkit.training.teacher_cache.meta import read_meta, reads_like_the_teacher


@dataclass
class Tokenizers:
    """The roles a tokenizer can play; some may be one object."""

    source: ByteifiedTokenizer  # what the student's weights know
    student: ByteifiedTokenizer  # what the student is trained with
    teacher: ByteifiedTokenizer | None  # what the teacher reads; None without a teacher
    expander: InputExpander | None = None  # of the student's bytes into the source's tokens


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
    elif config.teacher.cache and not reads_like_the_teacher(_cache(config), source):
        teacher = load_tokenizer(cached_spec(config), date=date)
    else:
        teacher = source
    if teacher is not None:
        joint_form(teacher, target)  # refuses what would be refused at the first row
        if teacher is not source:
            warn_of_missing_bos(teacher, target)
    expander = InputExpander(target, source) if student.expand_input_ids else None
    return Tokenizers(source, target, teacher, expander)


def cached_spec(config: Config) -> str:
    """The tokenizer spec of the teacher whose scores the config's cache holds."""
    return read_meta(_cache(config))["tokenizer"]["spec"]


def _cache(config: Config) -> Path:
    return Path(config.teacher.cache).expanduser()
