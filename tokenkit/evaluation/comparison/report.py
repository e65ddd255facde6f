"""Everything that a comparison measures, as one dictionary: ``report.json``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tokenkit.errors import DataError
from tokenkit.evaluation.bits_per_byte import writable_texts
from tokenkit.evaluation.comparison.curves import read_curves
from tokenkit.evaluation.comparison.entry import Entry, short_names
from tokenkit.evaluation.comparison.moved import moved_rows
from tokenkit.evaluation.comparison.scoring import (
    Scores,
    Texts,
    Windows,
    ratio,
    score,
    sizes_of,
    writable_documents,
)
from tokenkit.evaluation.comparison.traits import mismatches, trait_table
from tokenkit.evaluation.comparison.writing import Writing, open_writer, opening, write
from tokenkit.inference.own_texts import OwnText, own_texts
from tokenkit.log import logger

# Value and standard error of each "task/metric"
TaskScores = dict[str, tuple[float, float | None]]
Values = dict[str, Any]


@dataclass
class Plan:
    """What is to be measured.

    Attributes:
        data: documents of each file, folder or ``hf:name``.
        windows: how texts are read.
        prompts: that texts go on from; [] lets the teacher write from nothing, and takes
            beginnings of documents for the samples.
        own_count, own_tokens: texts that the teacher writes, and their length at most.
        sample_count, sample_tokens: continuations that are shown, and their length at most.
    """

    data: dict[str, list[str]]
    windows: Windows
    prompts: list[str] = field(default_factory=list)
    own_count: int = 64
    own_tokens: int = 128
    sample_count: int = 4
    sample_tokens: int = 64
    seed: int = 0


@dataclass
class Measured:
    """All that was asked of the models."""

    data: dict[str, Texts]
    prompts: list[str]
    writing: dict[str, Writing] = field(default_factory=dict)
    own: list[OwnText] = field(default_factory=list)
    asked_own: int = 0
    scores: dict[str, Scores] = field(default_factory=dict)
    tasks: dict[str, TaskScores] = field(default_factory=dict)


def measure(
    entries: Sequence[Entry],
    teacher: Entry,
    plan: Plan,
    task_scores: Callable[[Entry], TaskScores] | None,
) -> Measured:
    """Ask every model, one after another, so that one is in memory at a time.

    Raises:
        DataError: if none of a file's documents is left.
    """
    toks = [entry.tok for entry in entries]
    data = {file: writable_documents(file, texts, toks) for file, texts in plan.data.items()}
    documents = [text for texts in data.values() for text in texts.kept]
    prompts = (plan.prompts or [opening(text) for text in documents])[: plan.sample_count]
    found = Measured(data, prompts)
    if task_scores is not None:
        found.tasks = {entry.name: task_scores(entry) for entry in entries}
    for entry in entries:
        model = open_writer(entry, plan.windows.device)
        found.writing[entry.name] = write(model, prompts, plan.sample_tokens)
        if entry is teacher and plan.own_count and len(entries) > 1:
            logger.info(f"{entry.name}: writes {plan.own_count} texts of its own")
            found.own = own_texts(
                model, plan.own_count, plan.own_tokens, prompts=plan.prompts,
                batch_size=plan.windows.batch_size, seed=plan.seed,
            )  # fmt: skip
            found.asked_own = plan.own_count
        del model
    found.own = _writable(found.own, entries)
    for entry in entries:
        found.scores[entry.name] = score(entry, data, found.own, plan.windows)
    return found


def _writable(own: list[OwnText], entries: Sequence[Entry]) -> list[OwnText]:
    """The texts that all tokenizers can write."""
    toks = [entry.tok for entry in entries]
    try:
        kept = set(writable_texts(toks, [text.prompt + text.text for text in own]))
    except DataError:
        return []
    return [text for text in own if text.prompt + text.text in kept]


def compare(
    entries: Sequence[Entry],
    teacher: Entry,
    plan: Plan,
    task_scores: Callable[[Entry], TaskScores] | None = None,
) -> dict[str, Any]:
    """Measure, and put together what was found; values that are not known are None.

    Args:
        teacher: one of the entries, which the others are held against.
        task_scores: asks a model lm-eval's tasks; None leaves them out.

    Raises:
        TokenkitError: if a model or a file cannot be used.
    """
    found = measure(entries, teacher, plan, task_scores)
    traits = trait_table(entries)
    documents = [text for texts in found.data.values() for text in texts.kept]
    return {
        "teacher": teacher.name,
        "models": {entry.name: _model(entry, found.writing[entry.name]) for entry in entries},
        "traits": traits,
        "warnings": mismatches(traits, teacher.name),
        "bits_per_byte": _bits(found, teacher.name),
        "kept": _kept(found, teacher.name, plan),
        "tasks": _tasks(found),
        "cost": {entry.name: _cost(found, entry.name) for entry in entries},
        "samples": [
            {
                "prompt": prompt,
                "texts": {name: made.texts[k] for name, made in found.writing.items()},
            }
            for k, prompt in enumerate(found.prompts)
        ],
        "rows": {entry.name: moved_rows(entry, documents) for entry in entries},
        "curves": {
            entry.name: read_curves(entry.run)
            for entry in entries
            if entry.run is not None and (entry.run / "metrics.jsonl").is_file()
        },
        "settings": {
            "max_bytes": plan.windows.max_bytes,
            "device": str(plan.windows.device),
            "own_tokens": plan.own_tokens,
            "sample_tokens": plan.sample_tokens,
            "seed": plan.seed,
        },
    }


def _model(entry: Entry, writing: Writing) -> Values:
    return {
        "model": entry.model,
        "tokenizer": str(entry.tok.spec) if entry.tok.spec.path != entry.folder else "its own",
        "tokens": len(entry.tok),
        "parameters": writing.parameters,
        "run": None if entry.run is None else str(entry.run),
    }


def _bits(found: Measured, teacher: str) -> Values:
    """Of each file: bits per byte of each model, its distance from the teacher, bytes a token."""
    labels = short_names(list(found.data), "file")
    report = {}
    for label, (file, texts) in zip(labels, found.data.items(), strict=True):
        sizes = texts.sizes
        models = {}
        for name, scores in found.scores.items():
            bits = scores.bits[file]
            models[name] = {
                **ratio(bits, sizes),
                "minus_teacher": ratio(bits - found.scores[teacher].bits[file], sizes),
                "bytes_per_token": float(sizes.sum()) / scores.tokens[file],
            }
        report[label] = {
            "file": file,
            "documents": len(texts.kept),
            "bytes": int(sizes.sum()),
            "left_out": [{"document": number, "begins": text} for number, text in texts.left_out],
            "models": models,
        }
    return report


def _kept(found: Measured, teacher: str, plan: Plan) -> Values | None:
    """Bits per byte of what the teacher writes itself; None if it wrote nothing."""
    if not found.own:
        return None
    sizes = sizes_of([text.text for text in found.own])
    known = found.scores[teacher].own_bits
    return {
        "texts": len(found.own),
        "bytes": int(sizes.sum()),
        "left_out": found.asked_own - len(found.own),
        "prompts": len(plan.prompts),
        "models": {
            name: {**ratio(s.own_bits, sizes), "minus_teacher": ratio(s.own_bits - known, sizes)}
            for name, s in found.scores.items()
        },
        "written": [{"prompt": text.prompt, "text": text.text} for text in found.own],
    }


def _tasks(found: Measured) -> dict[str, Values]:
    """Of each ``task/metric``: value and standard error of each model."""
    report: dict[str, Values] = {}
    for name, scores in found.tasks.items():
        for metric, (value, stderr) in scores.items():
            known = None if stderr is None or np.isnan(stderr) else float(stderr)
            report.setdefault(metric, {})[name] = {"value": float(value), "stderr": known}
    return report


def _cost(found: Measured, name: str) -> Values:
    """What a model's generation takes, by tokens and by bytes of text."""
    writing, scores = found.writing[name], found.scores[name]
    size = sum(float(texts.sizes.sum()) for texts in found.data.values())
    per_token = size / sum(scores.tokens.values())
    cache = writing.cache_per_token
    return {
        "bytes_per_token": per_token,
        "tokens_per_second": writing.tokens / writing.seconds,
        "bytes_per_second": writing.size / writing.seconds,
        "cache_bytes_per_token": cache,
        "cache_bytes_per_byte": None if cache is None else cache / per_token,
    }
