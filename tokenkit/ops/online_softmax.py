"""What blocks of logits add up to: the softmax's denominator, boundary mass, labels' logits.

Sums are relative to the highest logit seen so far and shrink when a higher one comes (Milakov and
Gimelshein, arXiv 1805.02867).
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from tokenkit.ops import gpu_compile
from tokenkit.ops.gpu_compile import compiled_on_gpu
from tokenkit.ops.logit_blocks import LogitBlocks, multiply


class Labels:
    """Where the labels ``[N]`` stand in blocks of columns; most blocks have few of them."""

    def __init__(self, labels: Tensor, first_row: int) -> None:
        self.labels = labels - first_row

    def within(self, rows: slice, columns: slice) -> tuple[Tensor, Tensor]:
        """Column in the block ``[n, 1]`` (some column if it is not there), and whether it is."""
        place = self.labels[rows] - columns.start
        width = columns.stop - columns.start
        inside = (place >= 0) & (place < width)
        return place.clamp(0, width - 1)[:, None], inside


@compiled_on_gpu
def exponentials(
    logits: Tensor, top: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Overwrite a block ``[n, c]`` with e^(z − top) for the highest logit so far.

    Args:
        top: ``[n]`` highest logit of earlier blocks.
        mask: ``[c]`` 0 or 1.

    Returns:
        The new ``top``, the block's sums, and its sums under the mask, ``[n]`` each.
    """
    top = torch.maximum(top, logits.amax(1))
    p = logits.sub_(top[:, None]).exp_()
    return top, p.sum(1), None if mask is None else torch.mv(p, mask)


@compiled_on_gpu
def sums_alone(
    logits: Tensor, top: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """What :func:`exponentials` returns; nothing of a block's size is written."""
    top = torch.maximum(top, logits.amax(1))
    p = (logits - top[:, None]).exp()
    return top, p.sum(1), None if mask is None else (p * mask).sum(1)


class OnlineSoftmax:
    """What is known of every position once all columns were seen.

    Attributes:
        top: ``[N]`` highest logit.
        total: ``[N]`` Σ e^(z − top).
        mass: ``[N]`` Σ e^(z − top) m, or None without a mask.
        at_label: ``[N]`` logit of the label.
        others, boundary: with ``keep``, ``[N, D]`` Σ e^(z − top) z' W over all tokens but the
            label, and over boundary tokens; z' is the slope of the soft-cap.
    """

    def __init__(self, blocks: LogitBlocks, mask: Tensor | None, keep: bool) -> None:
        n = len(blocks.hidden)
        self.blocks, self.mask, self.keep = blocks, mask, keep
        zeros = torch.zeros(3, n, dtype=blocks.dtype, device=blocks.hidden.device)
        self.top = torch.full_like(zeros[0], -torch.inf)
        self.total, self.at_label = zeros[0], zeros[1]
        self.mass = None if mask is None else zeros[2]
        self.others = torch.zeros_like(blocks.hidden, dtype=blocks.dtype) if keep else None
        self.boundary = None if mask is None or not keep else torch.zeros_like(self.others)

    def add(self, logits: Tensor, rows: slice, columns: slice, weight: Tensor, labels: Labels):
        """Take one block ``[n, c]`` in, perhaps overwriting it."""
        slope = self.blocks.slope(logits) if self.keep else None
        place, inside = labels.within(rows, columns)
        here = logits.gather(1, place).squeeze(1)
        self.at_label[rows] = torch.where(inside, here, self.at_label[rows])
        mask = None if self.mask is None else self.blocks.along(self.mask, columns)
        # On a GPU writing a block takes time; eager operations write one anyway.
        add = sums_alone if gpu_compile.wanted(logits) and not self.keep else exponentials
        top, total, mass = add(logits, self.top[rows], mask)
        shrink = (self.top[rows] - top).exp_()
        self.top[rows] = top
        self.total[rows] = self.total[rows] * shrink + total
        if mask is not None:
            self.mass[rows] = self.mass[rows] * shrink + mass
        if self.keep:
            self._add_directions(logits, slope, mask, rows, shrink, weight, place, inside)

    def _add_directions(self, p, slope, mask, rows, shrink, weight, place, inside) -> None:
        blocks = self.blocks
        if slope is not None:
            p.mul_(slope)
        if self.boundary is not None:
            self.boundary[rows] *= shrink[:, None]
            masked = torch.mul(p, mask, out=blocks.buffer("masked", *p.shape))
            masked = masked.to(blocks.factor_dtype)
            multiply(masked, weight, self.boundary[rows], accumulate=True)
        self.others[rows] *= shrink[:, None]
        # The label's own term stays apart, so that nothing cancels where it is near certain.
        p.scatter_(1, place, p.gather(1, place).masked_fill_(inside[:, None], 0.0))
        multiply(p.to(blocks.factor_dtype), weight, self.others[rows], accumulate=True)

    def reduce(self, group: dist.ProcessGroup | None) -> None:
        """Sum over ranks that hold other rows of the matrix."""
        if group is None:
            return
        top = self.top.clone()
        dist.all_reduce(top, dist.ReduceOp.MAX, group=group)
        shrink = (self.top - top).exp_()
        self.top = top
        for sums in (self.total, self.mass, self.others, self.boundary):
            if sums is not None:
                sums *= shrink if sums.ndim == 1 else shrink[:, None]
                dist.all_reduce(sums, group=group)
        dist.all_reduce(self.at_label, group=group)  # 0 on all ranks but one
