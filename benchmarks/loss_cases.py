"""Inputs of the benchmark of losses, and the plain way of computing them that keeps all logits."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokenkit.batch import Batch
from tokenkit.config import config_from_dict
from tokenkit.losses.base import Loss, Signals
from tokenkit.losses.latents import Latents
from tokenkit.losses.mined import MinED
from tokenkit.losses.registry import LOSSES
from tokenkit.losses.side_path import SidePath
from tokenkit.models.vocabulary.table import PositionScores, Vocabulary

ROW = 512  # tokens per row
CHUNK_KINDS = ("unconstrained", "space", "unbiased")


class KeptVocabulary(Vocabulary):
    """Makes all logits (and log-probs and probs) of a batch at once and keeps them."""

    def chunked_loss(self, function, hidden, *rows, train_matrix=True):
        matrix = self.output_matrix if train_matrix else self.output_matrix.detach()
        return function((hidden.to(matrix.dtype) @ matrix.T).float(), *rows).sum()

    @torch.no_grad()
    def block_logits(self, hidden: Tensor) -> Tensor:
        return (hidden.to(self.output_matrix.dtype) @ self.output_matrix.T).float()

    def scores(self, hidden, ids, mask, boundary_mask=None, keep_directions=False):
        logprobs = (hidden @ self.output_matrix.T).float().log_softmax(-1)
        probs = logprobs.exp()
        label = logprobs.gather(-1, F.pad(ids[:, 1:], (0, 1))[..., None]).squeeze(-1)
        boundary = (probs @ boundary_mask.float()).log()
        return PositionScores(label, boundary, None, None, None, None)


class DenseLatents(Latents):
    """States at chunk ends picked by a dense matrix ``[B, T, C]``, as the JAX reference does."""

    def _at(self, state: Tensor, end: Tensor, on: Tensor) -> Tensor:
        pick = F.one_hot(end, state.shape[1]).to(state.dtype) * on[..., None]
        return (pick @ state).float()


@dataclass
class Case:
    """One micro-batch: the same text in two tokenizations of equal length, one token a chunk."""

    batch: Batch
    hidden: Tensor  # [B, T, D] student's
    teacher_hidden: Tensor
    student: Vocabulary
    teacher: Vocabulary
    boundary: Tensor  # [V] bool
    losses: list[Loss]
    teacher_scores: Signals | None = None  # given to both sides, as a teacher's cache would be


def make_case(
    name: str, n: int, d: int, v: int, device: str, dtype: torch.dtype, plain: bool = False
) -> Case:
    """``n`` positions for the losses called ``name`` (joined by +), random but for their shapes."""
    generator = torch.Generator().manual_seed(0)
    rows, length = max(1, n // ROW), min(n, ROW)

    def draw(*shape: int, scale: float = 1.0) -> Tensor:
        return (torch.randn(*shape, generator=generator) * scale).to(device, dtype)

    ids = torch.randint(v, (rows, length), generator=generator).to(device)
    mask = torch.ones_like(ids, dtype=torch.bool)
    chunk = torch.arange(length, dtype=torch.int32).expand(rows, -1).to(device)
    chunks = dict.fromkeys(CHUNK_KINDS, chunk)
    batch = Batch(ids, mask, mask, ids, mask, mask, chunks, chunks)
    kind = KeptVocabulary if plain else Vocabulary
    vocabularies = []
    for trained in (True, False):
        vocabulary = kind(v, d, tied=True, valid_vocab=v, device=device, dtype=dtype)
        vocabulary.input.data = draw(v, d, scale=2 / d**0.5)
        vocabularies.append(vocabulary.requires_grad_(trained))
    case = Case(
        batch,
        draw(rows, length, d).requires_grad_(),
        draw(rows, length, d),
        *vocabularies,
        boundary=(torch.rand(v, generator=generator) < 0.4).to(device),
        losses=[_make_loss(part, d, v, device, plain) for part in name.split("+")],
    )
    if "label" in needs(case):
        with torch.no_grad():
            found = case.teacher.scores(case.teacher_hidden, ids, mask, case.boundary)
        case.teacher_scores = Signals(found.label_logprob, found.boundary_logprob)
    return case


def _make_loss(name: str, d: int, v: int, device: str, plain: bool) -> Loss:
    config = config_from_dict({"loss": {"names": [name]}})
    if name == "alm_side_path":
        shared = torch.arange(0, v, 2)
        return SidePath(config, pairs=(shared, shared))
    if name == "mined":
        mapping = torch.randint(v, (v,), generator=torch.Generator().manual_seed(1))
        return MinED(config, mapping=mapping)
    loss = DenseLatents(config) if name == "alm_latents" and plain else LOSSES.get(name)(config)
    if isinstance(loss, nn.Module):
        loss.add_parameters(d, d)
        loss.to(device)
    return loss


def needs(case: Case) -> frozenset[str]:
    """What the case's losses need of a forward pass."""
    return frozenset().union(*(loss.needs for loss in case.losses))


def total_loss(case: Case) -> Tensor:
    """The losses of one micro-batch, added."""
    batch = case.batch
    if "label" in needs(case):
        found = case.student.scores(
            case.hidden, batch.student_ids, batch.student_mask, case.boundary
        )
        student = Signals(found.label_logprob, found.boundary_logprob)
        teacher = case.teacher_scores
    else:
        student = _states(case.hidden, case.student)
        teacher = _states(case.teacher_hidden, case.teacher)
    total = torch.zeros((), device=case.hidden.device)
    for loss in case.losses:
        count = loss.count(batch, teacher)
        if hasattr(loss, "student_count"):
            count = count + loss.student_count(batch, student, teacher, count)
        total = total + loss(batch, student, teacher, count)[0]
    return total


def _states(hidden: Tensor, vocabulary: Vocabulary) -> Signals:
    return Signals(hidden=hidden, embeddings=hidden, vocabulary=vocabulary)


def floor(case: Case) -> None:
    """The matmuls with output matrices alone: logits, gradients on hidden states and matrix.

    A loss that reads the teacher's distributions needs the teacher's logits too.
    """
    hidden, matrix = case.hidden.detach().flatten(0, 1), case.student.input.detach()
    to_hidden = torch.zeros_like(hidden)
    for part in matrix.split(4096):
        block = hidden @ part.T
        block.T @ hidden
        to_hidden.addmm_(block, part)
    if "hidden" in needs(case):
        for part in matrix.split(4096):
            hidden @ part.T
