"""torch.compile, layer by layer: all layers share one compiled graph, so start-up stays short."""

from __future__ import annotations

import torch

from tokenkit.config.schema import CompileConfig
from tokenkit.models.causal_lm import CausalLM


def apply_compile(model: CausalLM, config: CompileConfig) -> None:
    """Compile every decoder layer in place (parameter names do not change)."""
    # Gradient-norm aggregation runs the last layer's backward more than once.
    torch._functorch.config.donated_buffer = False
    for layer in model.layers:
        layer.compile(backend=config.backend, dynamic=config.dynamic)
