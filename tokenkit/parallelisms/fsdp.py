"""FSDP2: parameters, gradients and optimizer state sharded over data-parallel ranks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import (
    FSDPModule,
    MixedPrecisionPolicy,
    fully_shard,
    register_fsdp_forward_method,
)

from tokenkit.models.causal_lm import CausalLM
from tokenkit.models.vocabulary.table import Vocabulary


def _options(dp_mesh: DeviceMesh, dtype: torch.dtype) -> dict:
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)
    return {"mesh": dp_mesh, "mp_policy": policy}


def shard_vocabulary(vocabulary: Vocabulary, dp_mesh: DeviceMesh, dtype: torch.dtype) -> None:
    """Shard a vocabulary. One that is used at both ends of a forward pass stays gathered.

    One that casts itself is gathered as it is.
    """
    dtype = torch.float32 if vocabulary.casts_itself else dtype
    reshard = not vocabulary.at_both_ends
    fully_shard(vocabulary, reshard_after_forward=reshard, **_options(dp_mesh, dtype))
    methods: tuple[str, ...] = vocabulary.forward_methods
    if vocabulary.at_both_ends:
        # The output matrix is gathered by then (see gather_for_losses), and to look rows up needs
        # no matrix in backward.
        vocabulary.set_unshard_in_backward(False)
        if vocabulary.output is None:
            # Where a marked use ends in backward, what was accumulated is reduced; a tied matrix
            # has more to come until the first use ends.
            methods = methods[:1]
    for method in methods:
        register_fsdp_forward_method(vocabulary, method)


def apply_fsdp(model: CausalLM, dp_mesh: DeviceMesh, dtype: torch.dtype, unsharded: bool) -> None:
    """Shard each layer, the vocabulary and what is left, over a 1-D or (HSDP) 2-D mesh.

    Parameters are gathered and computed with in ``dtype``; gradients are reduced in fp32.

    Args:
        unsharded: what is gathered stays so until the last backward pass of a step, and its
            gradients are summed before they are reduced.
    """
    options = _options(dp_mesh, dtype)
    last: nn.Module = model.layers[-1]
    for layer in model.layers:
        # Backward needs the last layer first; gathering it again would be waste.
        fully_shard(layer, reshard_after_forward=not unsharded and layer is not last, **options)
    shard_vocabulary(model.vocabulary, dp_mesh, dtype)
    fully_shard(model, reshard_after_forward=False, **options)
    for method in ("predict_embeddings", "source_embeddings"):
        register_fsdp_forward_method(model, method)
    model.accumulates_unsharded = unsharded


def reshard(model: nn.Module) -> None:
    """Let go of gathered parameters, so that a module's parameters are its shards again.

    A forward pass without a backward one (validation) leaves what stays gathered behind.
    """
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


@contextmanager
def kept_gathered(student: CausalLM) -> Iterator[None]:
    """Within, FSDP neither lets go of parameters after a gradient nor reduces gradients.

    For gradients that only measure: what is gathered serves the backward pass that follows, and
    so does the order in which layers are to be gathered ahead of it.
    """
    if not isinstance(student, FSDPModule):
        yield
        return
    _finish_backward(student, False)
    try:
        yield
    finally:
        _finish_backward(student, True)


@contextmanager
def accumulating(student: CausalLM, more: bool) -> Iterator[None]:
    """Around a backward pass; ``more`` of them follow in this step, whose gradients are added.

    Where the student accumulates unsharded, only the last one lets go of parameters and reduces.
    """
    if more and student.accumulates_unsharded:
        with kept_gathered(student):
            yield
    else:
        yield


def _finish_backward(student: FSDPModule, last: bool) -> None:
    student.set_reshard_after_backward(last)
    student.set_requires_gradient_sync(last)
    student.set_is_last_backward(last)


def gather_for_losses(student: CausalLM) -> None:
    """Gather what losses use directly: the vocabulary, and parameters of their own.

    FSDP lets go of them whenever a gradient has passed through the model.
    """
    for module in (student, student.vocabulary):
        if isinstance(module, FSDPModule) and getattr(module, "at_both_ends", True):
            module.unshard()
