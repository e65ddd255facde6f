"""Collectives that autograd goes through, each with its adjoint.

Tensor parallelism computes the same on all ranks outside of a block and parts inside. What enters
a block has :func:`sum_gradient` or :func:`gather_tokens`, what leaves it :func:`sum_parts` or
:func:`scatter_tokens` (f and g of Megatron-LM, arXiv 1909.08053, and of its sequence parallelism,
arXiv 2205.05198). :func:`split` and :func:`join` lie between tensors that all ranks have and parts.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def _as_it_is(tensor: Tensor, dim: int, group: dist.ProcessGroup) -> Tensor:
    return tensor


def _all_reduce(tensor: Tensor, dim: int, group: dist.ProcessGroup) -> Tensor:
    total = tensor.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total, group=group)
    return total


def _all_gather(part: Tensor, dim: int, group: dist.ProcessGroup) -> Tensor:
    moved = part.movedim(dim, 0).contiguous()
    whole = moved.new_empty(dist.get_world_size(group) * len(moved), *moved.shape[1:])
    dist.all_gather_into_tensor(whole, moved, group=group)
    return whole.movedim(0, dim)


def _reduce_scatter(tensor: Tensor, dim: int, group: dist.ProcessGroup) -> Tensor:
    moved = tensor.movedim(dim, 0).contiguous()
    part = moved.new_empty(len(moved) // dist.get_world_size(group), *moved.shape[1:])
    dist.reduce_scatter_tensor(part, moved, group=group)
    return part.movedim(0, dim)


def _own(tensor: Tensor, dim: int, group: dist.ProcessGroup) -> Tensor:
    return tensor.chunk(dist.get_world_size(group), dim)[dist.get_rank(group)].contiguous()


class _Linear(torch.autograd.Function):
    """A linear map, ``there``, and its adjoint, ``back``, each of a tensor, ``dim`` and group."""

    @staticmethod
    def forward(ctx, tensor, there, back, dim, group):
        ctx.back, ctx.dim, ctx.group = back, dim, group
        return there(tensor, dim, group)

    @staticmethod
    def backward(ctx, grad):
        return ctx.back(grad, ctx.dim, ctx.group), None, None, None, None


class _SumGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, group, *tensors):
        ctx.group = group
        made = tuple(tensor.view_as(tensor) for tensor in tensors)
        return made if len(made) > 1 else made[0]

    @staticmethod
    def backward(ctx, *grads):
        if len(grads) == 1:
            return None, _all_reduce(grads[0], 0, ctx.group)
        # In one message, if they are of one dtype (as parameters of a layer are).
        total = _all_reduce(torch.cat([grad.flatten() for grad in grads]), 0, ctx.group)
        parts = total.split([grad.numel() for grad in grads])
        pairs = zip(parts, grads, strict=True)
        return None, *(part.view_as(grad).to(grad.dtype) for part, grad in pairs)


def sum_parts(tensor: Tensor, group: dist.ProcessGroup) -> Tensor:
    """The sum of all ranks' tensors; what follows is the same on all ranks."""
    return _Linear.apply(tensor, _all_reduce, _as_it_is, 0, group)


def sum_gradient(group: dist.ProcessGroup, *tensors: Tensor) -> tuple[Tensor, ...]:
    """Tensors that all ranks have, each of which gets a part of their gradient; one message."""
    made = _SumGradient.apply(group, *tensors)
    return made if isinstance(made, tuple) else (made,)


def gather_tokens(part: Tensor, dim: int, group: dist.ProcessGroup) -> Tensor:
    """All ranks' parts along ``dim``; each rank gets a part of the gradient of the whole."""
    return _Linear.apply(part, _all_gather, _reduce_scatter, dim, group)


def scatter_tokens(tensor: Tensor, dim: int, group: dist.ProcessGroup) -> Tensor:
    """This rank's part along ``dim`` of the sum of all ranks' tensors."""
    return _Linear.apply(tensor, _reduce_scatter, _all_gather, dim, group)


def split(tensor: Tensor, dim: int, group: dist.ProcessGroup) -> Tensor:
    """This rank's part along ``dim`` of what all ranks have."""
    return _Linear.apply(tensor, _own, _all_gather, dim, group)


def join(part: Tensor, dim: int, group: dist.ProcessGroup) -> Tensor:
    """All ranks' parts along ``dim``; what follows is the same on all ranks."""
    return _Linear.apply(part, _all_gather, _own, dim, group)
