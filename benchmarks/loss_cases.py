"""Inputs of the benchmark of losses, and the plain way of computing them that keeps all logits."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from tokenkit.batch import Sequences
from tokenkit.config import config_from_dict
from tokenkit.losses.base import Loss
from tokenkit.losses.latents import Latents
from tokenkit.losses.mined import MinED
from tokenkit.losses.registry import LOSSES
from tokenkit.losses.side_path import SidePath
from tokenkit.models.outputs import Outputs
from tokenkit.models.vocabulary.table import Vocabulary
from tokenkit.ops.linear_scores import Scores

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

    def scores(self, hidden, seq, boundary=True, keep_directions=False):
        logprobs = (hidden.flatten(0, 1) @ self.output_matrix.T).float().log_softmax(-1)
        probs = logprobs.exp()
        labels = F.pad(seq.ids.flatten()[1:], (0, 1))
        label = logprobs.gather(-1, labels[:, None]).squeeze(-1)
        mass = (probs @ self.boundary.float()).log()
        return Scores(label, mass, torch.zeros_like(labels, dtype=torch.bool))


class DenseLatents(Latents):
    """States at chunk ends picked by a dense matrix ``[B, T, T]``, as the JAX reference does."""

    @staticmethod
    def at(state: Tensor, row: Tensor, place: Tensor) -> Tensor:
        pick = F.one_hot(place.view(len(state), -1), state.shape[1]).to(state.dtype)
        return (pick @ state).float().flatten(0, 1)


@dataclass
class Case:
    """One micro-batch: the same text in two tokenizations of equal length, one token a chunk."""

    seq: Sequences  # both sides'
    hidden: Tensor  # [B, T, D] student's
    teacher_hidden: Tensor
    student: Vocabulary
    teacher: Vocabulary
    losses: list[Loss]
    teacher_outputs: Outputs | None = None  # given to both ways, as a teacher's cache would be


def make_case(
    name: str, n: int, d: int, v: int, device: str, dtype: torch.dtype, plain: bool = False
) -> Case:
    """``n`` positions for the losses called ``name`` (joined by +), random but for their shapes."""
    generator = torch.Generator().manual_seed(0)
    rows, length = max(1, n // ROW), min(n, ROW)

    def draw(*shape: int, scale: float = 1.0) -> Tensor:
        return (torch.randn(*shape, generator=generator) * scale).to(device, dtype)

    ids = torch.randint(v, (rows, length), generator=generator).to(device)
    chunk = torch.arange(length, dtype=torch.int32).expand(rows, -1).to(device)
    seq = Sequences.of(ids, chunks=dict.fromkeys(CHUNK_KINDS, chunk))
    kind = KeptVocabulary if plain else Vocabulary
    vocabularies = []
    for trained in (True, False):
        vocabulary = kind(v, d, tied=True, valid_vocab=v, device=device, dtype=dtype)
        vocabulary.input.data = draw(v, d, scale=2 / d**0.5)
        vocabularies.append(vocabulary.requires_grad_(trained))
    boundary = torch.rand(v, generator=generator) < 0.4
    for vocabulary in vocabularies:
        vocabulary.set_boundary(boundary)
    case = Case(
        seq,
        draw(rows, length, d).requires_grad_(),
        draw(rows, length, d),
        *vocabularies,
        losses=[_make_loss(part, d, v, device, plain) for part in name.split("+")],
    )
    if "label" in needs(case):
        with torch.no_grad():
            scores = case.teacher.scores(case.teacher_hidden, seq)
        case.teacher_outputs = Outputs(seq).with_scores(scores)
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
    loss.add_parameters(d, d)
    return loss.to(device)


def needs(case: Case) -> frozenset[str]:
    """What the case's losses need of a forward pass."""
    return frozenset().union(*(loss.needs for loss in case.losses))


def total_loss(case: Case) -> Tensor:
    """The losses of one micro-batch, added."""
    student = _outputs(case.seq, case.hidden, case.student)
    if "label" in needs(case):
        student = student.with_scores(case.student.scores(case.hidden, case.seq))
        teacher = case.teacher_outputs
    else:
        teacher = _outputs(case.seq, case.teacher_hidden, case.teacher)
    total = torch.zeros((), device=case.hidden.device)
    for loss in case.losses:
        match = loss.match(case.seq, teacher)
        count = loss.count(match)
        if loss.counts_student:
            count = count + loss.student_count(match, student, teacher, count)
        total = total + loss(match, student, teacher, count)[0]
    return total


def _outputs(seq: Sequences, hidden: Tensor, vocabulary: Vocabulary) -> Outputs:
    return Outputs(seq, hidden=hidden, embeddings=hidden, vocabulary=vocabulary)


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
