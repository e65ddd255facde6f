"""Causal attention that needs no mask, and no look at the batch to find that out.

Rows are padded on the right, one document each: torch's causal attention is all they need.
transformers looks into every batch for packed documents before it says so, which makes the CPU
wait for the device in each forward pass. An implementation without a function for masks is spared
the look.
"""

from __future__ import annotations

from torch import nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

CAUSAL = "sdpa_causal"
AttentionInterface.register(CAUSAL, sdpa_attention_forward)


def attend_without_masks(backbone: nn.Module) -> None:
    """Spare a backbone that attends by SDPA, over all that came before, the search for masks."""
    config = backbone.config
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    windowed = getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", 1)
    if config._attn_implementation == "sdpa" and kinds == {"full_attention"} and not windowed:
        config._attn_implementation = CAUSAL
