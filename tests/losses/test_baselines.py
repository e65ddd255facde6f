"""Losses on logits and hidden states: minimum at the teacher, padding, batch order, float64."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.losses.reference import random_case
from tokenkit.batch import Batch
from tokenkit.config import config_from_dict
from tokenkit.config.schema_losses import DIVERGENCES
from tokenkit.losses.base import Signals
from tokenkit.losses.divergences import Divergence
from tokenkit.losses.dskd import DSKD, Projected
from tokenkit.losses.kd import KD
from tokenkit.losses.latents import Latents
from tokenkit.losses.mined import MinED
from tokenkit.losses.side_path import SidePath
from tokenkit.losses.uld import ULD
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


def signals(batch: Batch, side: str, rows: int, seed: int) -> Signals:
    ids = getattr(batch, f"{side}_ids")
    generator = torch.Generator().manual_seed(seed)
    layers = torch.randn(3, *ids.shape, WIDTH, generator=generator)
    states = tuple(layer.requires_grad_(side == "student") for layer in layers)
    made = vocabulary(rows, seed)
    if side == "teacher":
        made.requires_grad_(False)
    return Signals(
        embeddings=states[0], hidden=states[-1], hidden_states=states, qkv=states[:2],
        vocabulary=made,
    )  # fmt: skip


def case(seed: int = 0, name: str = "") -> tuple[Batch, Signals, Signals]:
    """A batch and both sides' signals; for kd, of one vocabulary."""
    batch, _, _ = random_case(seed, gap=False)
    generator = torch.Generator().manual_seed(seed)
    teacher_vocab = STUDENT_VOCAB if name.startswith("kd") else TEACHER_VOCAB
    sizes = {"student": STUDENT_VOCAB, "teacher": teacher_vocab}
    for side, size in sizes.items():
        shape = getattr(batch, f"{side}_ids").shape
        setattr(batch, f"{side}_ids", torch.randint(size, shape, generator=generator))
    batch.teacher_ids[:, :12] = batch.student_ids[:, :12]  # kd compares what both have read
    return batch, *(signals(batch, s, n, k) for k, (s, n) in enumerate(sizes.items()))


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


def evaluate(loss, parts: list[tuple[Batch, Signals, Signals]]):
    """Loss and gradients on the student's hidden states of micro-batches counted together."""
    counts = sum(loss.count(batch, teacher) for batch, _, teacher in parts)
    if hasattr(loss, "student_count"):
        counts = counts + sum(loss.student_count(*part, counts) for part in parts)
    value = sum(loss(*part, counts)[0] for part in parts)
    leaves = [state for _, student, _ in parts for state in student.hidden_states]
    grads = torch.autograd.grad(value, leaves, allow_unused=True, materialize_grads=True)
    return value.detach(), grads


def rows_of(part: tuple[Batch, Signals, Signals], index) -> tuple[Batch, Signals, Signals]:
    """Some rows of a micro-batch, as leaves of their own."""
    batch, *sides = part
    picked = []
    for side in sides:
        states = tuple(
            s.detach()[index].requires_grad_(s.requires_grad) for s in side.hidden_states
        )
        picked.append(replace(side, embeddings=states[0], hidden=states[-1], hidden_states=states,
                              qkv=states[:2]))  # fmt: skip
    return batch._map(lambda tensor: tensor[index]), *picked


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


def padded(part: tuple[Batch, Signals, Signals], more: dict[str, int]):
    """The same rows with longer padding, whose contents are arbitrary."""
    batch, *sides = part
    fills = {"ids": 1, "mask": False, "loss_mask": False}
    changed = {
        f"{side}_{name}": F.pad(getattr(batch, f"{side}_{name}"), (0, n), value=fill)
        for side, n in more.items()
        for name, fill in fills.items()
    }
    for side, n in more.items():
        chunks = getattr(batch, f"{side}_chunks")
        changed[f"{side}_chunks"] = {k: F.pad(v, (0, n), value=-1) for k, v in chunks.items()}
    longer = []
    for side, n in zip(sides, more.values(), strict=True):
        states = tuple(
            F.pad(s.detach(), (0, 0, 0, n), value=9.0).requires_grad_(s.requires_grad)
            for s in side.hidden_states
        )
        longer.append(replace(side, embeddings=states[0], hidden=states[-1], hidden_states=states,
                              qkv=states[:2]))  # fmt: skip
    return replace(batch, **changed), *longer


@pytest.mark.parametrize("name", NAMES)
def test_padding_does_not_matter(name):
    loss, whole = make(name), case(1, name)
    value, grads = evaluate(loss, [whole])
    longer, longer_grads = evaluate(loss, [padded(whole, {"student": 3, "teacher": 5})])
    torch.testing.assert_close(longer, value, rtol=1e-5, atol=1e-6)
    for grad, other in zip(grads, longer_grads, strict=True):
        length = grad.shape[1]
        torch.testing.assert_close(other[:, :length], grad, rtol=1e-4, atol=1e-6)
        assert other[:, length:].eq(0).all()


def twins() -> tuple[Batch, Signals, Signals]:
    """A student that is the teacher, reading the same tokens."""
    batch, _, _ = case(2)
    position = torch.arange(batch.teacher_ids.shape[1])
    chunks = {"unconstrained": torch.where(batch.teacher_mask, position, -1)}
    same = {
        f"{side}_{name}": getattr(batch, f"teacher_{name}")
        for side in ("student", "teacher")
        for name in ("ids", "mask", "loss_mask")
    }
    batch = Batch(**same, student_chunks=chunks, teacher_chunks=chunks, stats={})
    student = signals(batch, "student", TEACHER_VOCAB, 4)
    teacher = replace(
        student,
        embeddings=student.embeddings.detach(),
        hidden=student.hidden.detach(),
        hidden_states=tuple(s.detach() for s in student.hidden_states),
        qkv=tuple(s.detach() for s in student.qkv),
    )
    return batch, student, teacher


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
    batch, student, teacher = part = twins()
    loss = make("dskd")
    states = student.hidden.detach()[:, :-1]
    loss._project = lambda *_: Projected(teacher=states, student=states)
    counts = loss.count(batch, teacher)
    counts = counts + loss.student_count(*part, counts)
    assert counts[-1] > 0 or counts[0] > 0
    value, metrics = loss(*part, counts)
    assert metrics["dskd/student_space"].abs() < 1e-6 and metrics["dskd/teacher_space"].abs() < 1e-6
    assert torch.autograd.grad(value, student.hidden)[0].abs().max() < 1e-6


def test_mined_with_one_vocabulary_is_kd_on_single_tokens():
    part = twins()
    loss = MinED(config_from_dict({}), mapping=torch.arange(TEACHER_VOCAB))
    value, grads = evaluate(loss, [part])
    assert value.abs() < 1e-6 and all(grad.abs().max() < 1e-6 for grad in grads)


@pytest.mark.parametrize("kind", SIDE_PATH)
def test_side_path_equals_float64(kind):
    batch, student, teacher = case(3)
    loss = make(f"side_path:{kind}")
    ours, _ = evaluate(loss, [(batch, student, teacher)])
    total, count = 0.0, 0
    sides = (("student", student, PAIRS[0]), ("teacher", teacher, PAIRS[1]))
    for row in range(len(batch.student_ids)):
        for chunk in range(30):
            logs = []
            for side, signal, ids in sides:
                chunks = getattr(batch, f"{side}_chunks")["unconstrained"][row]
                places = (chunks == chunk).nonzero().flatten().tolist()
                if not places:
                    break
                hidden = signal.hidden[row, places[-1]].detach().double()
                logits = signal.vocabulary.output.detach().double() @ hidden
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
