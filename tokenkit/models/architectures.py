"""What differs between the Hugging Face decoder families: names of parts, quirks, parallel plan."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tokenkit.errors import ModelError

# Column-parallel projections split their output features over the ranks, row-parallel ones
# their input features; one all-reduce per attention block and one per MLP remain.
LLAMA_PLAN = {
    "self_attn.q_proj": "colwise",
    "self_attn.k_proj": "colwise",
    "self_attn.v_proj": "colwise",
    "self_attn.o_proj": "rowwise",
    "mlp.gate_proj": "colwise",
    "mlp.up_proj": "colwise",
    "mlp.down_proj": "rowwise",
}


@dataclass(frozen=True)
class Architecture:
    """Where a family keeps its parts. One instance per Hugging Face ``model_type``."""

    prefix: str = "model."  # of backbone weights in the checkpoint
    layers: str = "layers"  # attribute of the backbone that holds the decoder layers
    embedding: str = "embed_tokens"  # attribute of the backbone that holds the input matrix
    scaled_embedding: bool = False  # embeddings are multiplied by sqrt(hidden size)
    tensor_parallel_plan: dict[str, str] = field(default_factory=dict)
    attention_inputs: tuple[str, ...] = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
    lora_aliases: dict[str, str] = field(default_factory=dict)  # fused projections
    transposed: bool = False  # projections are Conv1D, whose weights are [in, out]
    learned_positions: bool = False  # a position beyond the last has no embedding


LLAMA = Architecture(tensor_parallel_plan=LLAMA_PLAN)
GEMMA = Architecture(tensor_parallel_plan=LLAMA_PLAN, scaled_embedding=True)
PHI3 = Architecture(
    attention_inputs=("self_attn.qkv_proj",),
    lora_aliases={
        "q_proj": "qkv_proj",
        "k_proj": "qkv_proj",
        "v_proj": "qkv_proj",
        "gate_proj": "gate_up_proj",
        "up_proj": "gate_up_proj",
    },
)
GPT2 = Architecture(
    prefix="transformer.",
    layers="h",
    embedding="wte",
    attention_inputs=("attn.c_attn",),
    transposed=True,
    learned_positions=True,
)

ARCHITECTURES: dict[str, Architecture] = {
    "llama": LLAMA,
    "qwen2": LLAMA,
    "qwen3": LLAMA,
    "mistral": LLAMA,
    "gemma2": GEMMA,
    "gemma3_text": GEMMA,
    "phi3": PHI3,
    "gpt2": GPT2,
}


def architecture_of(hf_config: Any) -> Architecture:
    """The family of a Hugging Face config.

    Raises:
        ModelError: if its ``model_type`` is not in the table.
    """
    if hf_config.model_type not in ARCHITECTURES:
        names = ", ".join(sorted(ARCHITECTURES))
        raise ModelError(
            f"model_type '{hf_config.model_type}' is not supported (supported: {names})"
        )
    return ARCHITECTURES[hf_config.model_type]


def embedding_scale(hf_config: Any) -> float:
    """Factor applied to input embeddings before the first layer (Gemma: sqrt of hidden size)."""
    return hf_config.hidden_size**0.5 if architecture_of(hf_config).scaled_embedding else 1.0
