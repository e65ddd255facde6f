"""FSDP2: parameters, gradients and optimizer state sharded over data-parallel ranks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import (
    FSDPModule,
    MixedPrecisionPolicy,
    fully_shard,
    register_fsdp_forward_method,
)

from tokenkit.config.schema import ParallelismConfig
from tokenkit.models.causal_lm import CausalLM
from tokenkit.models.vocabulary.table import Vocabulary


def _options(dp_mesh: DeviceMesh, dtype: torch.dtype) -> dict:
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)
    return {"mesh": dp_mesh, "mp_policy": policy}


def shard_vocabulary(
    vocabulary: Vocabulary, dp_mesh: DeviceMesh, dtype: torch.dtype, whole: set[nn.Parameter]
) -> None:
    """Shard a vocabulary. One that is used at both ends of a forward pass stays gathered.

    One that casts itself is gathered as it is.

    Args:
        whole: parameters that every rank keeps.
    """
    dtype = torch.float32 if vocabulary.casts_itself else dtype
    reshard = not vocabulary.at_both_ends
    options = _options(dp_mesh, dtype)
    fully_shard(vocabulary, reshard_after_forward=reshard, ignored_params=whole, **options)
    methods: tuple[str, ...] = vocabulary.forward_methods
    if vocabulary.at_both_ends:
        # The output matrix is gathered by then (see gather_for_losses), and to look rows up needs
        # no matrix in backward.
        vocabulary.set_unshard_in_backward(False)
        # Backward ends with it. Named as next, it keeps FSDP from gathering what was used before
        # it: the last layer, of an earlier pass.
        vocabulary.set_modules_to_backward_prefetch([vocabulary])
        if vocabulary.output is None:
            # Where a marked use ends in backward, what was accumulated is reduced; a tied matrix
            # has more to come until the first use ends.
            methods = methods[:1]
    for method in methods:
        register_fsdp_forward_method(vocabulary, method)


def apply_fsdp(
    model: CausalLM,
    dp_mesh: DeviceMesh,
    dtype: torch.dtype,
    config: ParallelismConfig,
    *,
    train: bool,
    unsharded: bool,
    whole: set[nn.Parameter],
) -> None:
    """Shard each layer, the vocabulary and what is left, over a 1-D or (HSDP) 2-D mesh.

    Parameters are gathered and computed with in ``dtype``; gradients are reduced in fp32.

    Args:
        unsharded: what is gathered stays so until the last backward pass of a step, and its
            gradients are summed before they are reduced.
        whole: parameters that every rank keeps.
    """
    options = {**_options(dp_mesh, dtype), "ignored_params": whole}
    layers: list[nn.Module] = list(model.layers)
    for layer in layers:
        # Backward needs the last layer first; gathering it again would be waste.
        needed = train and layer is layers[-1]
        reshard = config.reshard_after_forward and not unsharded and not needed
        fully_shard(layer, reshard_after_forward=reshard, **options)
    if config.prefetch_layers > 1:  # FSDP gathers the next one by itself
        _gather_ahead(layers, config.prefetch_layers)
    shard_vocabulary(model.vocabulary, dp_mesh, dtype, whole)
    fully_shard(model, reshard_after_forward=False, **options)
    for method in ("predict_embeddings", "source_embeddings"):
        register_fsdp_forward_method(model, method)
    model.accumulates_unsharded = unsharded


def _gather_ahead(layers: list[Any], depth: int) -> None:
    for number, layer in enumerate(layers):
        layer.set_modules_to_forward_prefetch(layers[number + 1 : number + 1 + depth])
        before = layers[max(0, number - depth) : number]
        layer.set_modules_to_backward_prefetch(before[::-1])


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
