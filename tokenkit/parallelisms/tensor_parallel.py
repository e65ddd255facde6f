"""Tensor parallelism: split attention, MLP and the vocabulary's rows over the ``tp`` ranks.

A block's input is prepared once for all its projections, and what it adds to the hidden states is
summed once: two all-reduces a layer in the forward pass and two in the backward pass. Hidden states
between blocks are whole on every rank; with sequence parallelism each rank has some of the tokens
there, norms included, and an all-gather and a reduce-scatter take the place of each all-reduce.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import Shard, distribute_tensor

from tokenkit.errors import ConfigError
from tokenkit.models.causal_lm import CausalLM
from tokenkit.models.lora import LoRALinear
from tokenkit.parallelisms.collectives import (
    gather_tokens,
    join,
    scatter_tokens,
    split,
    sum_gradient,
    sum_parts,
)
from tokenkit.parallelisms.vocabulary_rows import shard_rows

TOKENS = 1  # the dimension of tokens in hidden states [B, T, D]
BLOCKS = ("self_attn", "mlp")


class SplitLinear(nn.Module):
    """A linear layer of which each rank has some output features, or some input features.

    Args:
        linear: the whole layer, on the meta device.
        dim: of the weight ``[out, in]`` that is split. Split along ``in`` (1), the outputs of all
            ranks are to be added, and the first rank's has the bias.
    """

    def __init__(self, linear: nn.Linear, mesh: DeviceMesh, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.weight = self._split(linear.weight, mesh, dim)
        self.bias: nn.Parameter | None = None
        if linear.bias is not None:
            self.bias = self._split(linear.bias, mesh, 0) if dim == 0 else linear.bias
        self.adds_bias = dim == 0 or mesh.get_local_rank() == 0

    @staticmethod
    def _split(parameter: nn.Parameter, mesh: DeviceMesh, dim: int) -> nn.Parameter:
        made = distribute_tensor(parameter.detach(), mesh, [Shard(dim)])
        return nn.Parameter(made, requires_grad=parameter.requires_grad)

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.weight.to_local(), self.bias
        if bias is not None and self.dim == 0:
            bias = bias.to_local()
        elif bias is not None and not self.adds_bias:
            bias = bias * 0.0  # still in the graph, so that all ranks' gradients can be summed
        return F.linear(x, weight, bias)


def _split_projection(layer: nn.Module, name: str, kind: str, mesh: DeviceMesh) -> nn.Module:
    """Put split layers in a projection's place; of a LoRA layer, its base and one factor."""
    dim = 0 if kind == "colwise" else 1
    projection = layer.get_submodule(name)
    if isinstance(projection, LoRALinear):
        factor = "lora_b" if dim == 0 else "lora_a"
        for part in ("base", factor):
            setattr(projection, part, SplitLinear(getattr(projection, part), mesh, dim))
        return projection
    parent, _, last = name.rpartition(".")
    made = SplitLinear(projection, mesh, dim)
    setattr(layer.get_submodule(parent), last, made)
    return made


def _on_input(function: Callable[[Tensor], Tensor]) -> Callable:
    """A pre-hook that changes the hidden states which a module is given."""

    def hook(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict]:
        if args:
            return (function(args[0]), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": function(kwargs["hidden_states"])}

    return hook


def _on_output(function: Callable[[Tensor], Tensor]) -> Callable:
    """A hook that changes a module's output."""

    def hook(module: nn.Module, args: tuple, output: Tensor) -> Tensor:
        return function(output)

    return hook


def _whole_parameters(module: nn.Module) -> Iterator[tuple[nn.Module, str]]:
    """Modules and names of parameters that every rank has whole."""
    for part in module.modules():
        for name, parameter in part.named_parameters(recurse=False):
            if not hasattr(parameter, "device_mesh"):
                yield part, name


def _sum_gradients_of(
    layer: nn.Module, found: list[tuple[nn.Module, str]], group: dist.ProcessGroup
) -> None:
    """Sum the gradients of whole parameters that each rank uses for its part; one message a layer.

    While the layer runs, tensors stand in the parameters' places which have this in their graph.
    """
    kept: list[tuple[nn.Module, str, nn.Parameter]] = []

    def put_in(module: nn.Module, args: tuple) -> None:
        if not torch.is_grad_enabled():
            return
        for part, name in found:
            parameter = part._parameters[name]
            if parameter is not None and parameter.requires_grad:
                kept.append((part, name, parameter))
        if kept:
            made = sum_gradient(group, *(parameter for _, _, parameter in kept))
            for (part, name, _), tensor in zip(kept, made, strict=True):
                part._parameters[name] = tensor

    def put_back(module: nn.Module, args: tuple, output: Any) -> None:
        for part, name, parameter in kept:
            part._parameters[name] = parameter
        kept.clear()

    if found:
        layer.register_forward_pre_hook(put_in)
        layer.register_forward_hook(put_back, always_call=True)


def _check(model: CausalLM, degree: int, key: str) -> None:
    config = model.backbone.config
    if not model.architecture.tensor_parallel_plan:
        raise ConfigError(
            f"{key} = {degree}: model_type '{config.model_type}' has no tensor-parallel plan; use 1"
        )
    for name in ("num_attention_heads", "num_key_value_heads", "intermediate_size"):
        if getattr(config, name) % degree:
            raise ConfigError(
                f"{key} = {degree} does not divide the model's {name} = {getattr(config, name)}"
            )


def _split_layer(
    layer: nn.Module, plan: dict[str, str], mesh: DeviceMesh, sequence_parallel: bool
) -> None:
    group = mesh.get_group()

    def enter(x: Tensor) -> Tensor:
        return gather_tokens(x, TOKENS, group) if sequence_parallel else sum_gradient(group, x)[0]

    def leave(x: Tensor) -> Tensor:
        return scatter_tokens(x, TOKENS, group) if sequence_parallel else sum_parts(x, group)

    for name, kind in plan.items():
        projection = _split_projection(layer, name, kind, mesh)
        if kind == "rowwise":
            projection.register_forward_hook(_on_output(leave))
    for name in BLOCKS:
        block = layer.get_submodule(name)
        block.register_forward_pre_hook(_on_input(enter), with_kwargs=True)
    # A block computes parts; with sequence parallelism the norms see some of the tokens, too.
    parts = [layer] if sequence_parallel else [layer.get_submodule(name) for name in BLOCKS]
    _sum_gradients_of(layer, [found for part in parts for found in _whole_parameters(part)], group)


def apply_tensor_parallel(
    model: CausalLM,
    tp_mesh: DeviceMesh,
    sequence_parallel: bool = False,
    *,
    split_vocabulary: bool = True,
    key: str = "parallelism.tensor_parallel_degree",
) -> None:
    """Split every layer's projections by the family's plan, and the vocabulary by rows.

    Predicted vocabularies are whole on every rank.

    Args:
        sequence_parallel: split the tokens between blocks.
        split_vocabulary: by rows; else every rank has all of them.
        key: of the degree, for errors.

    Raises:
        ConfigError: if the family has no plan or its heads do not divide by the degree.
    """
    _check(model, tp_mesh.size(), key)
    group = tp_mesh.get_group()
    model.join_features = partial(join, dim=-1, group=group)
    if split_vocabulary and model.vocabulary.rows_are_parameters:
        shard_rows(model.vocabulary, tp_mesh)
    for layer in model.layers:
        _split_layer(layer, model.architecture.tensor_parallel_plan, tp_mesh, sequence_parallel)
    if sequence_parallel:
        model.token_multiple *= tp_mesh.size()
        model.join_tokens = partial(join, dim=TOKENS, group=group)
        begin = _on_input(partial(split, dim=TOKENS, group=group))
        model.layers[0].register_forward_pre_hook(begin, with_kwargs=True)
        model.layers[-1].register_forward_hook(_on_output(model.join_tokens))
