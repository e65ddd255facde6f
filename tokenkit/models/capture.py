"""Look inside a decoder's forward pass: outputs of its layers, queries, keys and values."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from tokenkit.models.causal_lm import CausalLM


@dataclass
class Captured:
    """Filled while the model runs."""

    layers: list[Tensor] = field(default_factory=list)  # output of each layer [B, T, D]
    projections: list[Tensor] = field(default_factory=list)  # q, k, v of each layer in turn

    def qkv(self, per_layer: int) -> tuple[Tensor, ...]:
        """``[B, T, Q + K + V]`` of each layer."""
        parts = self.projections
        groups = (parts[i : i + per_layer] for i in range(0, len(parts), per_layer))
        return tuple(torch.cat(group, -1) for group in groups)


@contextmanager
def capture(model: CausalLM, what: Collection[str], length: int) -> Iterator[Captured]:
    """Record "hidden_states" and "qkv", where asked for, of one forward pass of T = ``length``."""
    captured, handles = Captured(), []

    def keep_layer(module: nn.Module, args: tuple, output: Tensor | tuple) -> None:
        states = output if isinstance(output, Tensor) else output[0]
        captured.layers.append(model.join_tokens(states)[:, :length])

    def keep_projection(module: nn.Module, args: tuple, output: Tensor) -> None:
        captured.projections.append(model.join_features(output)[:, :length])

    for layer in model.layers:
        # The last layer's output is not recorded: what counts is the last norm's.
        if "hidden_states" in what and layer is not model.layers[-1]:
            handles.append(layer.register_forward_hook(keep_layer))
        if "qkv" in what:
            inner = getattr(layer, "_checkpoint_wrapped_module", layer)
            for name in model.architecture.attention_inputs:
                module = inner.get_submodule(name)
                handles.append(module.register_forward_hook(keep_projection))
    try:
        yield captured
    finally:
        for handle in handles:
            handle.remove()
