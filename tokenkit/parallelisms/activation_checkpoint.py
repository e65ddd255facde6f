"""Activation checkpointing: recompute in backward instead of keeping activations."""

from __future__ import annotations

from functools import partial

import torch
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts

from tokenkit.config.schema import ActivationCheckpointConfig
from tokenkit.models.causal_lm import CausalLM

aten = torch.ops.aten
# The costly operations, whose results are worth keeping.
SAVED_OPS = {
    aten.mm.default,
    aten.addmm.default,
    aten._scaled_dot_product_efficient_attention.default,
    aten._scaled_dot_product_flash_attention.default,
    aten._scaled_dot_product_flash_attention_for_cpu.default,
    aten._scaled_dot_product_cudnn_attention.default,
}


def _save_costly_ops(ctx, op, *args, **kwargs) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if op in SAVED_OPS else CheckpointPolicy.PREFER_RECOMPUTE


def apply_activation_checkpoint(model: CausalLM, config: ActivationCheckpointConfig) -> None:
    """Wrap decoder layers according to ``config.mode``.

    "full" wraps every layer, "every_n" each n-th, "selective_ops" every layer but keeps the
    results of matmuls and attention. The last layer is never wrapped: backward starts there, so
    its activations would be recomputed at once, and gradient-norm aggregation reads them twice.
    """
    layers = model.layers
    for index in range(len(layers) - 1):
        if config.mode == "every_n" and index % config.every_n != 0:
            continue
        context = {}
        if config.mode == "selective_ops":
            policy = partial(create_selective_checkpoint_contexts, _save_costly_ops)
            context["context_fn"] = policy
        layers[index] = checkpoint_wrapper(layers[index], preserve_rng_state=False, **context)
