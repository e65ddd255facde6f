"""MinED mapping: for every student token the teacher token with the least edit distance.

After Wan et al. (arXiv 2401.10491). Distances are Levenshtein's, on byteified strings. Lengths
bound them from below, so candidates are searched outward from a token's own length, and only as
far as they could still be as near as the best one found.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rapidfuzz.distance import Levenshtein
from rapidfuzz.process import cdist
from tqdm.auto import tqdm

from tokenkit.errors import TokenizerError
from tokenkit.io import new_file
from tokenkit.tokenizers import ByteifiedTokenizer

ROWS = 1024  # tokens compared at a time


@dataclass(frozen=True)
class MinedMapping:
    """``teacher_ids`` int32 ``[V_student]`` and their ``distances`` int32; −1 for ids without a
    token."""

    teacher_ids: np.ndarray
    distances: np.ndarray


def nearest_tokens(
    tokens: Sequence[str], candidates: Sequence[str], workers: int = 1, progress: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Index of the nearest candidate of every token, and its distance; int32 ``[N]`` each.

    Among equally near ones the last is chosen, as in the reference.
    """
    best = np.full(len(tokens), np.iinfo(np.int32).max, np.int32)
    index = np.full(len(tokens), -1, np.int32)
    by_length = _by_length(candidates)
    with tqdm(total=len(tokens), desc="tokens", unit="tok", disable=not progress) as bar:
        for length, rows in _by_length(tokens).items():
            for begin in range(0, len(rows), ROWS):
                block = rows[begin : begin + ROWS]
                _search(tokens, candidates, length, block, by_length, best, index, workers)
                bar.update(len(block))
    return index, best


def _by_length(strings: Sequence[str]) -> dict[int, np.ndarray]:
    lengths = np.array([len(s) for s in strings], np.int64)
    return {int(length): np.flatnonzero(lengths == length) for length in np.unique(lengths)}


def _search(
    tokens: Sequence[str],
    candidates: Sequence[str],
    length: int,
    rows: np.ndarray,
    by_length: dict[int, np.ndarray],
    best: np.ndarray,
    index: np.ndarray,
    workers: int,
) -> None:
    """Find the nearest of all candidates for tokens of one length."""
    for gap in range(max(length, max(by_length, default=0)) + 1):
        rows = rows[best[rows] >= gap]
        if not len(rows):
            return
        near = [by_length[n] for n in sorted({length - gap, length + gap}) if n in by_length]
        if not near:
            continue
        columns = np.sort(np.concatenate(near))
        distances = cdist(
            [tokens[i] for i in rows],
            [candidates[j] for j in columns],
            scorer=Levenshtein.distance,
            dtype=np.uint16,
            workers=workers,
        )
        last = distances.shape[1] - 1 - distances[:, ::-1].argmin(1)
        found = distances[np.arange(len(rows)), last].astype(np.int32)
        place = columns[last]
        better = (found < best[rows]) | ((found == best[rows]) & (place > index[rows]))
        best[rows[better]], index[rows[better]] = found[better], place[better]


def compute_mined_mapping(
    teacher_tok: ByteifiedTokenizer,
    student_tok: ByteifiedTokenizer,
    workers: int = 1,
    progress: bool = False,
) -> MinedMapping:
    """Map every student token; tokens that both vocabularies have map to each other."""
    teacher_ids = np.array([teacher_tok.ids.get(t, -1) for t in student_tok.tokens], np.int32)
    distances = np.where(teacher_ids >= 0, 0, -1).astype(np.int32)
    missing = [i for i, t in enumerate(student_tok.tokens) if t and teacher_ids[i] < 0]
    known = np.array([j for j, t in enumerate(teacher_tok.tokens) if t], np.int32)
    nearest, found = nearest_tokens(
        [student_tok.tokens[i] for i in missing],
        [teacher_tok.tokens[j] for j in known],
        workers,
        progress,
    )
    teacher_ids[missing], distances[missing] = known[nearest], found
    return MinedMapping(teacher_ids, distances)


def save_mined_mapping(
    path: Path,
    mapping: MinedMapping,
    teacher_tok: ByteifiedTokenizer,
    student_tok: ByteifiedTokenizer,
) -> None:
    """Write a ``.npz`` file; it appears complete or not at all."""
    meta = {"teacher": str(teacher_tok.spec), "student": str(student_tok.spec)}
    with new_file(path, "wb") as file:
        np.savez_compressed(
            file,
            teacher_ids=mapping.teacher_ids,
            distances=mapping.distances,
            teacher_size=len(teacher_tok),
            meta=json.dumps(meta),
        )


def load_mined_mapping(
    path: str | Path, teacher_tok: ByteifiedTokenizer, student_tok: ByteifiedTokenizer
) -> np.ndarray:
    """Teacher ids int32 ``[V_student]``; an id without a token maps to 0.

    Raises:
        TokenizerError: if the file is missing, damaged, or of other vocabularies.
    """
    try:
        with np.load(path) as file:
            teacher_ids, teacher_size = file["teacher_ids"], int(file["teacher_size"])
            meta = json.loads(str(file["meta"]))
    except FileNotFoundError:
        raise TokenizerError(
            f"MinED mapping '{path}' does not exist; write it with tokenkit compute-mined-mapping"
        ) from None
    except Exception as error:  # zip, key and JSON errors of a damaged file
        raise TokenizerError(f"'{path}' is not a MinED mapping: {error}") from error
    if (len(teacher_ids), teacher_size) != (len(student_tok), len(teacher_tok)):
        raise TokenizerError(
            f"MinED mapping '{path}' is of {len(teacher_ids)} student and {teacher_size} teacher "
            f"tokens ('{meta['student']}' and '{meta['teacher']}'), but this run's tokenizers "
            f"have {len(student_tok)} and {len(teacher_tok)}"
        )
    return teacher_ids.clip(min=0)
