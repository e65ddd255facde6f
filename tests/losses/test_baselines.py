"""Losses on logits and hidden states: minimum at the teacher, padding, batch order, float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.losses.reference import count_of, random_case, value_of
from tokenkit.batch import Sequences
from tokenkit.config import config_from_dict
from tokenkit.losses.divergences import DIVERGENCES, Divergence
from tokenkit.losses.dskd import DSKD, Projected
from tokenkit.losses.kd import KD
from tokenkit.losses.latents import Latents
from tokenkit.losses.mined import MinED
from tokenkit.losses.side_path import SidePath
from tokenkit.losses.uld import ULD
from tokenkit.models.outputs import Outputs
from tokenkit.models.vocabulary.table import Vocabulary

WIDTH, STUDENT_VOCAB, TEACHER_VOCAB = 8, 19, 23
SIDE_PATH = ("kl", "reverse_kl", "kl_subset", "reverse_kl_subset", "log_abs", "abs")
PAIRS = (torch.tensor([0, 3, 7, 11]), torch.tensor([2, 3, 20, 5]))


def vocabulary(rows: int, seed: int) -> Vocabulary:
    made = Vocabulary(rows, WIDTH, tied=False, valid_vocab=rows)
    generator = torch.Generator().manual_seed(seed)
    for matrix in (made.input, made.output):
        matrix.data = torch.randn(rows, WIDTH, generator=generator)
    return made


def with_states(outputs: Outputs, states: tuple[torch.Tensor, ...]) -> Outputs:
    """Hidden states of three layers, which stand for everything else too."""
    return outputs._replace(
        embeddings=states[0], hidden=states[-1], hidden_states=states, qkv=states[:2]
    )


def outputs_of(seq: Sequences, rows: int, seed: int, learns: bool) -> Outputs:
    generator = torch.Generator().manual_seed(seed)
    layers = torch.randn(3, *seq.ids.shape, WIDTH, generator=generator)
    states = tuple(layer.requires_grad_(learns) for layer in layers)
    made = vocabulary(rows, seed).requires_grad_(learns)
    return with_states(Outputs(seq, vocabulary=made), states)


Sides = tuple[Outputs, Outputs]


def case(seed: int = 0, name: str = "") -> Sides:
    """Student's and teacher's outputs; for kd, of one vocabulary."""
    student, teacher = (side.seq for side in random_case(seed, gap=False))
    generator = torch.Generator().manual_seed(seed)
    teacher_vocab = STUDENT_VOCAB if name.startswith("kd") else TEACHER_VOCAB
    for seq, size in ((student, STUDENT_VOCAB), (teacher, teacher_vocab)):
        seq.ids = torch.randint(size, seq.ids.shape, generator=generator)
    teacher.ids[:, :12] = student.ids[:, :12]  # kd compares what both have read
    return (
        outputs_of(student, STUDENT_VOCAB, 0, learns=True),
        outputs_of(teacher, teacher_vocab, 1, learns=False),
    )


def make(name: str):
    """A loss by name; what follows a colon is its setting."""
    kind, _, setting = name.partition(":")
    if kind == "uld":
        return ULD(config_from_dict({"uld": {"aligned": setting == "aligned"}}))
    if kind == "kd":
        return KD(config_from_dict({"kd": {"divergence": setting}}))
    if kind == "side_path":
        config = config_from_dict({"side_path": {"diff_fn": setting}})
        return SidePath(config, pairs=PAIRS)
    if kind == "mined":
        generator = torch.Generator().manual_seed(5)
        mapping = torch.randint(TEACHER_VOCAB, (STUDENT_VOCAB,), generator=generator)
        return MinED(config_from_dict({}), mapping=mapping)
    if kind == "latents":
        states, normalization = setting.split(",")
        latents = {"states": states, "normalization": normalization}
        loss = Latents(config_from_dict({"latents": latents}))
    else:
        loss = DSKD(config_from_dict({}))
    with torch.random.fork_rng():
        torch.manual_seed(3)
        loss.add_parameters(WIDTH, WIDTH)
    return loss


NAMES = [
    "uld", "uld:aligned", "mined", "dskd",
    "latents:last_hidden_state,l2", "latents:all_hidden_states+qkv,l1_channelwise",
    *(f"kd:{name}" for name in DIVERGENCES),
    *(f"side_path:{name}" for name in SIDE_PATH),
]  # fmt: skip


def whole_count(loss, parts: list[Sides]) -> torch.Tensor:
    """What a loss counts in micro-batches together."""
    counts = sum(count_of(loss, *part) for part in parts)
    if not loss.counts_student:
        return counts
    found = [
        loss.student_count(loss.match(student.seq, teacher), student, teacher, counts)
        for student, teacher in parts
    ]
    return counts + sum(found)


def evaluate(loss, parts: list[Sides]):
    """Loss and gradients on the student's hidden states of micro-batches counted together."""
    counts = whole_count(loss, parts)
    value = sum(value_of(loss, *part, counts)[0] for part in parts)
    leaves = [state for student, _ in parts for state in student.hidden_states]
    grads = torch.autograd.grad(value, leaves, allow_unused=True, materialize_grads=True)
    return value.detach(), grads


def rows_of(part: Sides, index: list[int]) -> Sides:
    """Some rows of a micro-batch, as leaves of their own."""
    picked = []
    for side in part:
        seq = side.seq
        chunks = {kind: ids[index] for kind, ids in seq.chunks.items()}
        masks = seq.mask[index], seq.loss_mask[index]
        states = tuple(
            s.detach()[index].requires_grad_(s.requires_grad) for s in side.hidden_states
        )
        rows = side._replace(seq=Sequences.of(seq.ids[index], *masks, chunks))
        picked.append(with_states(rows, states))
    return tuple(picked)


@pytest.mark.parametrize("name", NAMES)
def test_micro_batches_and_order_do_not_matter(name):
    loss, whole = make(name), case(0, name)
    value, grads = evaluate(loss, [rows_of(whole, [0, 1, 2])])
    split, split_grads = evaluate(loss, [rows_of(whole, [0]), rows_of(whole, [1, 2])])
    torch.testing.assert_close(split, value, rtol=1e-5, atol=1e-6)
    joined = [torch.cat(pair) for pair in zip(split_grads[:3], split_grads[3:], strict=True)]
    turned, turned_grads = evaluate(loss, [rows_of(whole, [2, 0, 1])])
    torch.testing.assert_close(turned, value, rtol=1e-5, atol=1e-6)
    for grad, other, moved in zip(grads, joined, turned_grads, strict=True):
        torch.testing.assert_close(other, grad, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(moved, grad[[2, 0, 1]], rtol=1e-4, atol=1e-6)
    assert any(grad.abs().sum() > 0 for grad in grads)


def padded(part: Sides, more: tuple[int, int]) -> Sides:
    """The same rows with longer padding, whose contents are arbitrary."""
    longer = []
    for side, n in zip(part, more, strict=True):
        seq = side.seq
        chunks = {kind: F.pad(ids, (0, n), value=-1) for kind, ids in seq.chunks.items()}
        masks = (F.pad(mask, (0, n), value=False) for mask in (seq.mask, seq.loss_mask))
        states = tuple(
            F.pad(s.detach(), (0, 0, 0, n), value=9.0).requires_grad_(s.requires_grad)
            for s in side.hidden_states
        )
        rows = side._replace(seq=Sequences.of(F.pad(seq.ids, (0, n), value=1), *masks, chunks))
        longer.append(with_states(rows, states))
    return tuple(longer)


@pytest.mark.parametrize("name", NAMES)
def test_padding_does_not_matter(name):
    loss, whole = make(name), case(1, name)
    value, grads = evaluate(loss, [whole])
    longer, longer_grads = evaluate(loss, [padded(whole, (3, 5))])
    torch.testing.assert_close(longer, value, rtol=1e-5, atol=1e-6)
    for grad, other in zip(grads, longer_grads, strict=True):
        length = grad.shape[1]
        torch.testing.assert_close(other[:, :length], grad, rtol=1e-4, atol=1e-6)
        assert other[:, length:].eq(0).all()


def twins() -> Sides:
    """A student that is the teacher, reading the same tokens."""
    seq = case(2)[1].seq
    position = torch.arange(seq.ids.shape[1])
    seq.chunks = {"unconstrained": torch.where(seq.mask, position, -1)}
    student = outputs_of(seq, TEACHER_VOCAB, 4, learns=True)
    return student, with_states(student, tuple(s.detach() for s in student.hidden_states))


@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("mined", "dskd")])
def test_a_student_equal_to_its_teacher_has_nothing_to_learn(name):
    loss = make(name)
    if name.startswith("side_path"):
        loss.student_ids = loss.teacher_ids
    value, grads = evaluate(loss, [twins()])
    assert value.abs() < 1e-6
    # Without the mass outside the pairs, a subset's sum is no divergence: its slope is not zero.
    assert "subset" in name or all(grad.abs().max() < 1e-6 for grad in grads)


def test_dskd_with_perfect_projections_has_only_projections_to_learn():
    student, teacher = part = twins()
    loss = make("dskd")
    states = F.pad(student.hidden.detach()[:, :-1], (0, 0, 1, 0))
    loss._project = lambda *_: Projected(teacher=states, student=states)
    counts = whole_count(loss, [part])
    assert counts[-1] > 0 or counts[0] > 0
    value, metrics = value_of(loss, *part, counts)
    assert metrics["dskd/student_space"].abs() < 1e-6 and metrics["dskd/teacher_space"].abs() < 1e-6
    assert torch.autograd.grad(value, student.hidden)[0].abs().max() < 1e-6


def test_mined_with_one_vocabulary_is_kd_on_single_tokens():
    part = twins()
    loss = MinED(config_from_dict({}), mapping=torch.arange(TEACHER_VOCAB))
    value, grads = evaluate(loss, [part])
    assert value.abs() < 1e-6 and all(grad.abs().max() < 1e-6 for grad in grads)


@pytest.mark.parametrize("kind", SIDE_PATH)
def test_side_path_equals_float64(kind):
    student, teacher = case(3)
    loss = make(f"side_path:{kind}")
    ours, _ = evaluate(loss, [(student, teacher)])
    total, count = 0.0, 0
    sides = ((student, PAIRS[0]), (teacher, PAIRS[1]))
    for row in range(len(student.seq.ids)):
        for chunk in range(30):
            logs = []
            for side, ids in sides:
                chunks = side.seq.chunks["unconstrained"][row]
                places = (chunks == chunk).nonzero().flatten().tolist()
                if not places:
                    break
                hidden = side.hidden[row, places[-1]].detach().double()
                logits = side.vocabulary.output.detach().double() @ hidden
                logs.append(logits.log_softmax(0)[ids].numpy())
            if len(logs) < 2:
                continue
            total += float_distance(kind, *logs)
            count += 1
    assert count > 5
    assert ours.item() == pytest.approx(total / count, rel=1e-5)


def float_distance(kind: str, log_q: np.ndarray, log_p: np.ndarray) -> float:
    q, p = np.exp(log_q), np.exp(log_p)
    if kind == "abs":
        return np.abs(p - q).mean()
    if kind == "log_abs":
        return np.abs(log_p - log_q).mean()
    if not kind.endswith("subset"):
        p, q = np.append(p, 1 - p.sum()), np.append(q, 1 - q.sum())
    if kind.startswith("reverse"):
        p, q = q, p
    return (p * np.log(p / q)).sum()


@pytest.mark.parametrize("name", DIVERGENCES)
def test_divergences_are_never_negative_and_checked_by_finite_differences(name):
    torch.manual_seed(0)
    student = torch.randn(4, 9, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(4, 9, dtype=torch.float64)
    divergence = Divergence(name, kd_temp=1.7, teacher_temperature=1.2)
    assert (divergence(student, teacher) >= 0).all()
    if name != "akl":  # its share is held fixed
        assert torch.autograd.gradcheck(lambda s: divergence(s, teacher), (student,))
