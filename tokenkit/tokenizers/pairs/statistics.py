"""Biases of token pairs, computed from how often two tokenizers use their tokens.

A pair is a teacher token and a student token of which one ends with the other, so that both can end
at the same place. Its ``bias1`` is the probability of the texts that go on after this place in a
way that the teacher's tokenization hides but the student's does not: over the teacher's cover set
(see :mod:`~tokenkit.tokenizers.pairs.cover_sets`) without the extensions in the student's, the sum
of the unigram probabilities of the last tokens. ``bias2`` is the same with the sides changed. Where
both are (almost) zero, the two models mean the same by a probability up to this place; see "chunk
debiasing" in the ALM paper (Minixhofer et al., 2025, arXiv 2503.20083).
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import sparse
from tqdm.auto import tqdm

from tokenkit.errors import TokenizerError
from tokenkit.tokenizers.pairs.bias import FILES, PairBias
from tokenkit.tokenizers.pairs.cover_sets import CoverSets, Extensions, cover_sets, is_byteified
from tokenkit.tokenizers.tokenizer import ByteifiedTokenizer

ADDITIVE = 1e-9


class Pairs(NamedTuple):
    """Pairs of token ids, int64 ``[N]`` each."""

    teacher: np.ndarray
    student: np.ndarray


def unigram_probabilities(
    tok: ByteifiedTokenizer, counts: np.ndarray, additive: float = ADDITIVE
) -> np.ndarray:
    """Probability of each token.

    The family's special tokens, which plain text does not contain, get the largest count of all.

    Args:
        counts: integers ``[V]``, how often each token occurs.
        additive: what every token gets on top, as a share of the total count.

    Returns:
        float32 ``[V]``, summing to 1.

    Raises:
        TokenizerError: if the shape is wrong or nothing was counted.
    """
    counts = np.array(counts, np.float64)
    if counts.shape != (len(tok),):
        raise TokenizerError(
            f"tokenizer '{tok.spec}' has {len(tok)} tokens, but counts have shape {counts.shape}"
        )
    if not counts.any():
        raise TokenizerError(f"no token of '{tok.spec}' was counted, so none has a probability")
    counts[list(tok.special_ids)] = counts.max()
    smoothed = (counts + additive * counts.sum()).astype(np.float32)
    return smoothed / smoothed.sum()


def suffix_pairs(teacher: ByteifiedTokenizer, student: ByteifiedTokenizer) -> Pairs:
    """All pairs in which one token ends with the other, ordered by teacher and student id.

    The families' special tokens, where alignment cuts anyway, and other tokens that are not written
    in the byte alphabet are in no pair.
    """
    ids = [
        {t: i for t, i in tok.ids.items() if i not in tok.special_ids and is_byteified(t)}
        for tok in (teacher, student)
    ]
    found = set()
    for longer, shorter in (ids, reversed(ids)):
        for token, i in longer.items():
            for start in range(len(token)):
                j = shorter.get(token[start:])
                if j is not None:
                    found.add((i, j) if longer is ids[0] else (j, i))
    pairs = np.array(sorted(found), np.int64).reshape(-1, 2)
    return Pairs(pairs[:, 0], pairs[:, 1])


def is_blank(tok: ByteifiedTokenizer) -> np.ndarray:
    """Tokens that are whitespace and nothing else, bool ``[V]``."""
    texts = (raw.decode("utf-8", errors="replace") for raw in tok.token_bytes)
    return np.array([not text.strip() for text in texts], bool)


def pair_bias(
    teacher: ByteifiedTokenizer,
    student: ByteifiedTokenizer,
    teacher_probabilities: np.ndarray,
    student_probabilities: np.ndarray,
    *,
    blank_bias: float | None = 1.0,
    progress: bool = False,
) -> PairBias:
    """Biases of all pairs (see :func:`suffix_pairs`).

    Args:
        teacher_probabilities, student_probabilities: float ``[V_teacher]`` and ``[V_student]``.
        blank_bias: what pairs with a token of mere whitespace get instead of a computed bias
            (1.0 in the reference implementation); None computes them like all others.
        progress: show progress bars.

    Returns:
        float32 matrices ``[V_teacher, V_student]`` with one entry for every pair, zeros included.
    """
    pairs = suffix_pairs(teacher, student)
    fixed = np.zeros(len(pairs.teacher), bool)
    if blank_bias is not None:
        fixed = is_blank(teacher)[pairs.teacher] | is_blank(student)[pairs.student]
    open_pairs = Pairs(*(ids[~fixed] for ids in pairs))
    extensions = Extensions()
    covers = [
        cover_sets(tok, [tok.tokens[i] for i in np.unique(ids)], extensions, progress)
        for tok, ids in ((teacher, open_pairs.teacher), (student, open_pairs.student))
    ]
    probabilities = teacher_probabilities, student_probabilities
    matrices = []
    for own in (0, 1):
        biases = np.full(len(fixed), blank_bias or 0.0, np.float32)
        biases[~fixed] = hidden_probability(
            covers[own], covers[1 - own], open_pairs[own], open_pairs[1 - own],
            probabilities[own], len(extensions), f"bias{own + 1}" if progress else "",
        )  # fmt: skip
        shape = len(teacher), len(student)
        matrices.append(sparse.csr_matrix((biases, (pairs.teacher, pairs.student)), shape))
    return PairBias(*matrices)


def hidden_probability(
    own: CoverSets,
    other: CoverSets,
    own_ids: np.ndarray,
    other_ids: np.ndarray,
    probabilities: np.ndarray,
    extension_count: int,
    progress: str = "",
) -> np.ndarray:
    """Probability of what one side's cover set holds and the other's does not.

    Args:
        own_ids, other_ids: integers ``[N]``, the pairs.
        probabilities: float ``[V]`` of the own side's last tokens.
        progress: name of the progress bar; "" for none.

    Returns:
        float64 ``[N]``.
    """
    result = np.zeros(len(own_ids))
    open_extension = np.ones(extension_count, bool)  # of the other token at hand
    order = np.argsort(other_ids, kind="stable")
    tokens, starts = np.unique(other_ids[order], return_index=True)
    bar = tqdm(
        zip(tokens, np.split(order, starts[1:]), strict=True),
        total=len(tokens), desc=progress, unit="token", disable=not progress, mininterval=1,
    )  # fmt: skip
    for token, pairs in bar:
        covered = other.extensions[other.members_of(other.groups_of(token[None])[0])[0]]
        open_extension[covered] = False
        groups, per_pair = own.groups_of(own_ids[pairs])
        # Tokens with the same ending have most of their groups in common.
        groups, place = np.unique(groups, return_inverse=True)
        members, per_group = own.members_of(groups)
        hidden = np.flatnonzero(open_extension[own.extensions[members]])
        group = np.repeat(np.arange(len(groups)), per_group)[hidden]
        weights = probabilities[own.last[members[hidden]]]
        of_group = np.bincount(group, weights, minlength=len(groups))
        pair = np.repeat(np.arange(len(pairs)), per_pair)
        result[pairs] = np.bincount(pair, of_group[place], minlength=len(pairs))
        open_extension[covered] = True
    return result


def save_pair_bias(bias: PairBias, folder: Path) -> None:
    """Write both matrices into an existing folder; see :func:`load_pair_bias`."""
    for name, matrix in zip(FILES, (bias.bias1, bias.bias2), strict=True):
        sparse.save_npz(folder / name, matrix)
