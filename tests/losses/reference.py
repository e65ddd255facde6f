"""ALM written down token by token in float64, without vectorisation; and random inputs for it."""

from __future__ import annotations

import numpy as np
import torch

from tokenkit.batch import Sequences
from tokenkit.config import config_from_dict
from tokenkit.losses import LOSSES
from tokenkit.models.outputs import Outputs

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
    label, boundary = scores.token_logprob[row].double(), scores.boundary_logprob[row].double()
    chunks = {}
    for chunk in range(int(ids.max()) + 1):
        positions = [t for t in range(len(ids)) if ids[t] == chunk and mask[t]]
        logprob = sum((label[t] for t in positions if t >= 1), label.new_zeros(()))
        counted = sum(t >= 1 for t in positions)
        chunks[chunk] = [logprob, boundary[first_run_end(positions)], counted, 0 in positions]
    return chunks


def reference_alm(student, teacher, config, kind="unconstrained", compare_first=False):
    """``(Σ numerators · differences, Σ denominators)`` of two models' outputs.

    ``compare_first``: as the JAX reference, keep chunks with a first token, whose score is missing.
    """
    alm, total, count = config.alm, 0.0, 0.0
    for row in range(len(student.seq.ids)):
        sides = [
            row_chunks(side.seq.chunks[kind][row], side.seq.loss_mask[row], side, row)
            for side in (teacher, student)
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
    """Student's outputs (whose scores need gradients) and teacher's.

    ``gap`` takes a chunk off the loss.
    """
    generator = np.random.default_rng(seed)
    sides = {}
    for side, length in (("teacher", 24), ("student", 27)):
        chunk_ids, mask = random_side(generator, rows, chunks, length)
        loss_mask = mask & ~(torch.arange(length) < 2) if gap else mask.clone()
        if gap:
            loss_mask &= chunk_ids != 3
        kinds = {k: chunk_ids for k in ("unconstrained", "space", "unbiased")}
        ids = torch.zeros(rows, length, dtype=torch.long)
        seq = Sequences.of(ids, mask, loss_mask, kinds)
        token, boundary = torch.from_numpy(
            -generator.exponential(2.0, (2, rows, length)).astype(np.float32)
        )
        sides[side] = Outputs(seq, torch.where(seq.scored, token, 0.0), boundary)
    for tensor in scores(sides["student"]):
        tensor.requires_grad_()
    return sides["student"], sides["teacher"]


def scores(outputs):
    """A model's two scores of its tokens."""
    return [outputs.token_logprob, outputs.boundary_logprob]


def count_of(loss, student, teacher):
    """What a loss counts in two models' outputs."""
    return loss.count(loss.match(student.seq, teacher))


def value_of(loss, student, teacher, count):
    """A loss and its metrics, of two models' outputs."""
    return loss(loss.match(student.seq, teacher), student, teacher, count)


def make_loss(name="alm_unconstrained", **alm):
    """A loss and the config it was made from."""
    config = config_from_dict({"loss": {"names": [name]}, "alm": alm})
    return LOSSES.get(name)(config, None, None), config


def run(loss, student, teacher, count=None):
    """Value and gradients on the student's two scores (zero where a score is not used)."""
    count = count_of(loss, student, teacher).clamp(min=1.0) if count is None else count
    value, metrics = value_of(loss, student, teacher, count)
    inputs = scores(student)
    found = torch.autograd.grad(value, inputs, allow_unused=True)
    found = [torch.zeros_like(t) if g is None else g for t, g in zip(inputs, found, strict=True)]
    return value.detach(), found, metrics
