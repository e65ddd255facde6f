"""ALM written down token by token in float64, without vectorisation; and random inputs for it."""

from __future__ import annotations

import numpy as np
import torch

from tokenkit.batch import Batch
from tokenkit.config import config_from_dict
from tokenkit.losses import LOSSES
from tokenkit.losses.base import Signals

EPSILON = 1e-6


def binary(y, x, tau):
    """Teacher's and student's probability of the chunk at a temperature, and of anything else."""
    p, q = (y / tau - EPSILON).exp(), (x / tau - EPSILON).exp()
    return p, q, 1 - p, 1 - q


def difference(name, y, x, tau, alpha):
    if name == "abs":
        return (y - x).abs()
    if name == "joschu_k2":
        return ((y - x) / tau) ** 2 / 2
    if name == "joschu_k3":
        return ((y - x) / tau).exp() - 1 - (y - x) / tau
    if name == "binary_kl_temp_limit":
        y, x = y - EPSILON, x - EPSILON
        return (y - x) + y * (-x).log() - y * (-y).log()
    p, q, not_p, not_q = binary(y, x, 1.0 if name == "renyi" else tau)
    if name == "renyi":
        return (p**alpha * q ** (1 - alpha) + not_p**alpha * not_q ** (1 - alpha)).log() / (
            alpha - 1
        )
    if name == "binary_ce":
        return -(p * q.log() + not_p * not_q.log())
    if name == "reverse_binary_kl":
        return q * (q / p).log() + not_q * (not_q / not_p).log()
    assert name == "abs_exp"
    return (p - q).abs()


def first_run_end(positions):
    """Last of the first consecutive numbers of a sorted list, 0 for an empty one."""
    if not positions:
        return 0
    end = positions[0]
    while end + 1 in positions:
        end += 1
    return end


def row_chunks(ids, mask, scores, row):
    """Chunk → (log-prob, boundary log-prob at its end, scored tokens, has the first token)."""
    label, boundary = scores.label_logprob[row].double(), scores.boundary_logprob[row].double()
    chunks = {}
    for chunk in range(int(ids.max()) + 1):
        positions = [t for t in range(len(ids)) if ids[t] == chunk and mask[t]]
        logprob = sum((label[t - 1] for t in positions if t >= 1), label.new_zeros(()))
        counted = sum(t >= 1 for t in positions)
        chunks[chunk] = [logprob, boundary[first_run_end(positions)], counted, 0 in positions]
    return chunks


def reference_alm(batch, student, teacher, config, kind="unconstrained", compare_first=False):
    """``(Σ numerators · differences, Σ denominators)`` of a batch.

    ``compare_first``: as the JAX reference, keep chunks with a first token, whose score is missing.
    """
    alm, total, count = config.alm, 0.0, 0.0
    for row in range(len(batch.student_ids)):
        sides = [
            row_chunks(batch.teacher_chunks[kind][row], batch.teacher_loss_mask[row], teacher, row),
            row_chunks(batch.student_chunks[kind][row], batch.student_loss_mask[row], student, row),
        ]
        nowhere = student.boundary_logprob[row, 0].double()
        none = [torch.zeros((), dtype=torch.float64), nowhere, 0, False]
        first = {c for side in sides for c, chunk in side.items() if chunk[3] and not compare_first}
        on = [c for c, (_, _, tokens, _) in sides[0].items() if tokens and c not in first]
        groups, previous = [], None
        for chunk in on:
            if "merge_by_space_prob" not in alm.mode or not groups or groups[-1][1]:
                groups.append([[chunk], False])
            elif previous != chunk - 1:  # chunks under the loss mask's gap are in between
                groups.append([[chunk], False])
            else:
                groups[-1][0].append(chunk)
            groups[-1][1] = sides[0][chunk][1].exp() > alm.merge_threshold
            previous = chunk
        for members, _ in groups:
            y, x = (
                sum(side.get(c, none)[0] for c in members)
                + (side.get(members[-1], none)[1] if "append_space" in alm.mode else 0.0)
                for side in sides
            )
            tokens = sum(sides[0][c][2] for c in members)
            numerator = {
                "chunk_count": 1,
                "token_count": tokens,
                "log1p_token_count": np.log1p(tokens),
            }[alm.numerator]
            d = difference(alm.diff_fn, y, x, alm.temperature, alm.renyi_alpha)
            total = total + numerator * d
            count += 1 if alm.denominator == "chunk_count" else tokens
    return total, count


def random_side(generator, rows, chunks, length):
    """Ids, masks, chunk ids of one side; chunks of one to three tokens, gaps, padding."""
    ids = np.full((rows, length), -1, dtype=np.int32)
    mask = np.zeros((rows, length), dtype=bool)
    for row in range(rows):
        sizes = generator.integers(1, 4, chunks)
        position = int(generator.integers(0, 2))
        for chunk, size in enumerate(sizes):
            position += int(generator.random() < 0.2)  # a token in no chunk
            ids[row, position : position + size] = chunk
            position += size
        assert position < length
        mask[row, :position] = True
    return torch.from_numpy(ids), torch.from_numpy(mask)


def random_case(seed=0, rows=3, chunks=6, gap=True):
    """A batch and its scores (the student's need gradients); ``gap`` takes a chunk off the loss."""
    generator = np.random.default_rng(seed)
    batch_arguments, scores = {}, {}
    for side, length in (("teacher", 24), ("student", 27)):
        chunk_ids, mask = random_side(generator, rows, chunks, length)
        loss_mask = mask & ~(torch.arange(length) < 2) if gap else mask.clone()
        if gap:
            loss_mask &= chunk_ids != 3
        batch_arguments |= {
            f"{side}_ids": torch.zeros(rows, length, dtype=torch.long),
            f"{side}_mask": mask,
            f"{side}_loss_mask": loss_mask,
            f"{side}_chunks": {k: chunk_ids for k in ("unconstrained", "space", "unbiased")},
        }
        values = -generator.exponential(2.0, (2, rows, length)).astype(np.float32)
        scores[side] = Signals(*torch.from_numpy(values))
    for tensor in (scores["student"].label_logprob, scores["student"].boundary_logprob):
        tensor.requires_grad_()
    return Batch(**batch_arguments, stats={}), scores["student"], scores["teacher"]


def make_loss(name="alm_unconstrained", **alm):
    """A loss and the config it was made from."""
    config = config_from_dict({"loss": {"names": [name]}, "alm": alm})
    return LOSSES.get(name)(config, None, None), config


def run(loss, batch, student, teacher, count=None):
    """Value and gradients on the student's two scores (zero where a score is not used)."""
    count = loss.count(batch, teacher).clamp(min=1.0) if count is None else count
    value, metrics = loss(batch, student, teacher, count)
    inputs = [student.label_logprob, student.boundary_logprob]
    found = torch.autograd.grad(value, inputs, allow_unused=True)
    found = [torch.zeros_like(t) if g is None else g for t, g in zip(inputs, found, strict=True)]
    return value.detach(), found, metrics
