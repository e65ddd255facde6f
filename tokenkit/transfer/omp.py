"""OMP: a new token is the sparse sum of shared tokens that is nearest to it in a donor's space.

After Goddard & Fernandes Neto, "Training-Free Tokenizer Transplantation via Orthogonal Matching
Pursuit" (arXiv 2506.06607), which mergekit-tokensurgeon implements. The donor is a model that has
the target tokenizer: its row of a new token is approximated by ``k`` of its rows of shared tokens,
and the same coefficients are applied to the source model's rows. Without a donor, the space is
the source's own: a new token lies at the mean of its pieces' rows, as in FVT. Input and output rows
of a token may be near to different tokens, so each matrix of an untied donor has its own pursuit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tokenkit.errors import ConfigError, ModelError
from tokenkit.tokenizers import ByteifiedTokenizer
from tokenkit.transfer.new_rows import CHUNK_ROWS, Combination, unit_rows
from tokenkit.transfer.pace import paced
from tokenkit.transfer.plan import Plan, make_plan
from tokenkit.transfer.registry import INITIALIZERS

TARGETS = 1024  # new tokens whose candidates are searched together
VALUES = 1 << 26  # of intermediate results held at a time, fp32
DEPENDENT = 1e-4  # an atom with less than this of its length outside the span adds nothing
DEPENDENT_PRODUCTS = 3e-3  # the same where lengths come from fp32 products


@dataclass(frozen=True)
class Donor:
    """A model's tokenizer and its input and output matrix, ``[V_d, D_d]`` (output None if tied)."""

    tok: ByteifiedTokenizer
    matrix: Tensor
    output: Tensor | None = None


@INITIALIZERS.register("omp")
def omp(
    source_tok: ByteifiedTokenizer,
    target_tok: ByteifiedTokenizer,
    matrices: Sequence[Tensor],
    seed: int = 0,
    *,
    donor: Donor | None = None,
    k: int = 64,
    candidates: int = 512,
) -> tuple[list[Tensor], dict[str, int]]:
    """Make the matrices of a new vocabulary.

    The first four arguments, returns and errors are those of :func:`tokenkit.transfer.fvt.fvt`.
    New tokens that the donor does not have are averaged over their pieces.

    Args:
        donor: the space to approximate in; None for the source's own.
        k: shared tokens per new one.
        candidates: choose them among this many whose rows' directions are nearest to the new
            token's; 0 for all shared tokens, which costs ``k`` products of the new with all
            shared rows (seconds on an accelerator, hours on a processor for large vocabularies).

    Raises:
        ConfigError: if ``k`` is below 1, or ``candidates`` is below ``k`` and not 0.
        ModelError: if donor and target have no token in common.
    """
    if k < 1:
        raise ConfigError(f"omp: k = {k} must be at least 1")
    if candidates < 0 or 0 < candidates < k:
        raise ConfigError(f"omp: candidates = {candidates} must be 0 (all) or at least k = {k}")
    plan = make_plan(source_tok, target_tok, matrices)
    if donor is None:
        basis = plan.shared[1].unique()
        spaces, new, sources = list(matrices), plan.composed, basis
    else:
        spaces = [donor.matrix] if donor.output is None else [donor.matrix, donor.output]
        new, basis, sources = _donated(plan, target_tok, donor)
    plans = [plan]
    if len(basis):
        plans = [
            plan.composing(_approximated(new, space, basis, sources, k, candidates))
            for space in spaces[: len(matrices)]
        ]
    plans += [plans[0]] * (len(matrices) - len(plans))  # a tied donor's serves both
    generator = torch.Generator().manual_seed(seed)
    made = [p.make(m, generator) for p, m in zip(plans, matrices, strict=True)]
    return made, plans[0].report


def _approximated(
    new: Combination, space: Tensor, basis: Tensor, sources: Tensor, k: int, candidates: int
) -> Combination:
    """New tokens as sums of the source's rows ``sources``, which ``space`` has at ``basis``."""
    parts = []
    work = f"omp: {len(new):,} new tokens from {len(basis):,} shared ones"
    for part in paced(new.chunks(TARGETS), work):
        chosen, weights = approximate(part.of(space), space, basis, k, candidates)
        used = weights != 0
        counts = used.sum(1)
        # A row of zeros is approximated by nothing; it stays what it was in the plan.
        some = counts > 0
        parts.append(
            Combination(part.targets[some], counts[some], sources[chosen][used], weights[used])
        )
    return Combination.join(parts)


def _donated(
    plan: Plan, target_tok: ByteifiedTokenizer, donor: Donor
) -> tuple[Combination, Tensor, Tensor]:
    """New tokens as single rows of the donor, and its and the source's rows of shared tokens."""
    ids = [donor.tok.ids.get(token, -1) if token else -1 for token in target_tok.tokens]
    donor_of = torch.tensor(ids)
    donor_of[donor_of >= len(donor.matrix)] = -1
    if not (donor_of >= 0).any():
        raise ModelError(f"donor '{donor.tok.spec}' has no token of '{target_tok.spec}'")
    targets, sources = plan.shared
    known = donor_of[targets] >= 0
    new = torch.cat([plan.composed.targets, plan.drawn])
    new = new[donor_of[new] >= 0]
    ones = torch.ones(len(new))
    return (
        Combination(new, ones.long(), donor_of[new], ones),
        donor_of[targets[known]],
        sources[known],
    )


def approximate(
    targets: Tensor, matrix: Tensor, basis: Tensor, k: int, candidates: int = 0
) -> tuple[Tensor, Tensor]:
    """Approximate vectors by sparse sums of a matrix's rows.

    Orthogonal matching pursuit (Pati et al., 1993) for all targets together: ``k`` times, take
    the row whose direction explains most of what is left, and solve for all rows taken.

    Args:
        targets: fp32 ``[B, D]``, on the matrix's device.
        matrix: ``[V, D]``.
        basis: ids ``[S]`` of the rows to use.
        candidates: see :func:`omp`.

    Returns:
        Places in ``basis``, int64 ``[B, K]`` with ``K = min(k, S, D)``, and weights fp32
        ``[B, K]``; 0 for rows that add nothing. Both on the CPU.
    """
    k = min(k, len(basis), targets.shape[1])
    basis = basis.to(matrix.device)
    narrow = 0 < candidates < len(basis)
    near = _nearest(targets, matrix, basis, candidates) if narrow else None
    rows = max(1, VALUES // (targets.shape[1] * (candidates if narrow else k + 2)))
    found = []
    for begin in range(0, len(targets), rows):
        part = slice(begin, begin + rows)
        if narrow:
            found.append(_pursue_near(targets[part], near[part], matrix, basis, k))
        else:
            found.append(_pursue(targets[part], matrix, basis, k))
    chosen, weights = (torch.cat(column) for column in zip(*found, strict=True))
    # The weights are of atoms scaled to length 1.
    lengths = torch.stack([matrix[basis[places]].float().norm(dim=1) for places in chosen.T], 1)
    weights = torch.where(lengths > 0, weights / lengths, 0)
    return chosen.cpu(), weights.cpu()


def _nearest(vectors: Tensor, matrix: Tensor, basis: Tensor, n: int) -> Tensor:
    """Places in ``basis`` of the ``n`` directions nearest to each vector or its opposite."""
    best_scores, best_places = [], []
    begin = 0
    for ids in basis.split(CHUNK_ROWS):
        scores = (vectors @ unit_rows(matrix, ids).T).abs_()
        top = scores.topk(min(n, len(ids)), dim=1)
        best_scores.append(top.values)
        best_places.append(top.indices + begin)
        begin += len(ids)
    places = torch.cat(best_scores, 1).topk(n, dim=1).indices
    return torch.cat(best_places, 1).gather(1, places)


def _pursue(targets: Tensor, matrix: Tensor, basis: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Places in the whole basis and weights of its unit atoms, ``[B, k]``, by Gram-Schmidt."""
    size, width = targets.shape
    directions = targets.new_zeros(size, k, width)  # orthonormal, or 0
    triangle = targets.new_zeros(size, k, k, dtype=torch.float64)  # atoms = directions · triangle
    parts = targets.new_zeros(size, k, dtype=torch.float64)  # of the targets along directions
    chosen = torch.zeros(size, k, dtype=torch.long, device=targets.device)
    residual = targets.clone()
    for step in range(k):
        chosen[:, step] = best = _nearest(residual, matrix, basis, 1).squeeze(1)
        known = directions[:, :step]
        rest = unit_rows(matrix, basis[best])
        for _ in range(2):  # once is not orthogonal enough in fp32
            along = torch.bmm(known, rest.unsqueeze(2))
            rest = rest - torch.bmm(known.mT, along).squeeze(2)
            triangle[:, :step, step] += along.squeeze(2)
        length = rest.norm(dim=1)
        new = length > DEPENDENT
        directions[:, step] = torch.where(new, 1 / length, 0).unsqueeze(1) * rest
        triangle[:, step, step] = torch.where(new, length, 1)
        parts[:, step] = part = (residual * directions[:, step]).sum(1)
        residual = residual - part.to(residual).unsqueeze(1) * directions[:, step]
    return chosen, _solve(triangle, parts)


def _pursue_near(
    targets: Tensor, near: Tensor, matrix: Tensor, basis: Tensor, k: int
) -> tuple[Tensor, Tensor]:
    """Like :func:`_pursue` among each target's own candidates, places ``near`` ``[B, N]``.

    Only the atoms' products with each other and with the target are needed (Rubinstein et al.,
    "Efficient Implementation of the K-SVD Algorithm using Batch Orthogonal Matching Pursuit",
    2008), here carried along as their products with the orthonormal directions.
    """
    atoms = unit_rows(matrix, basis[near].flatten()).view(*near.shape, -1)
    products = torch.bmm(atoms, atoms.mT)
    # Products of all atoms with what is left of the target, and with each direction
    scores = torch.bmm(atoms, targets.unsqueeze(2)).squeeze(2).double()
    along = scores.new_zeros(len(near), k, near.shape[1])
    triangle = scores.new_zeros(len(near), k, k)
    parts = scores.new_zeros(len(near), k)
    chosen = torch.zeros(len(near), k, dtype=torch.long, device=near.device)
    row = torch.arange(len(near), device=near.device)
    for step in range(k):
        chosen[:, step] = best = scores.abs().argmax(1)
        triangle[:, :step, step] = old = along[row, :step, best]
        rest = products[row, best].double()
        rest -= torch.bmm(old.unsqueeze(1), along[:, :step]).squeeze(1)
        length = rest[row, best].clamp(min=0).sqrt()
        new = length > DEPENDENT_PRODUCTS
        inverse = torch.where(new, 1 / length, 0)
        along[:, step] = inverse.unsqueeze(1) * rest
        triangle[:, step, step] = torch.where(new, length, 1)
        parts[:, step] = inverse * scores[row, best]
        scores -= parts[:, step].unsqueeze(1) * along[:, step]
    return near.gather(1, chosen), _solve(triangle, parts)


def _solve(triangle: Tensor, parts: Tensor) -> Tensor:
    """Weights of the atoms, fp32 ``[B, k]``; 0 for those that add no direction."""
    solved = torch.linalg.solve_triangular(triangle, parts.unsqueeze(2), upper=True)
    return solved.squeeze(2).float()
