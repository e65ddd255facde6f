"""Shapes of well-known models, so that a run can be planned where none of them lies on the disk."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

LLAMA = {"head_dim": 128, "num_key_value_heads": 8, "vocab_size": 128256}
GEMMA = {"sliding_window": 4096, "vocab_size": 256000}
# hidden, intermediate, layers, heads
SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")


@dataclass(frozen=True)
class Known:
    """A published model.

    Attributes:
        model_type: of transformers.
        values: of its config.
        tokens: of its tokenizer.
    """

    model_type: str
    values: dict[str, Any]
    tokens: int


def _llama(*sizes: int, tied: bool = False, tokens: int = 128256, **other: Any) -> Known:
    values = {**dict(zip(SIZES, sizes, strict=True)), **LLAMA, "tie_word_embeddings": tied, **other}
    return Known("llama", values, tokens)


def _qwen(*sizes: int, heads: int, rows: int = 152064) -> Known:
    values = dict(zip(SIZES, sizes, strict=True))
    values |= {"num_key_value_heads": heads, "vocab_size": rows}
    return Known("qwen2", {**values, "tie_word_embeddings": rows == 151936}, 151665)


def _qwen3(*sizes: int, tied: bool = False) -> Known:
    values = dict(zip(SIZES, sizes, strict=True))
    values |= {"num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936}
    return Known("qwen3", {**values, "tie_word_embeddings": tied}, 151669)


def _gemma(*sizes: int, heads: int, head_dim: int) -> Known:
    values = {**dict(zip(SIZES, sizes, strict=True)), **GEMMA, "num_key_value_heads": heads}
    return Known("gemma2", {**values, "head_dim": head_dim, "tie_word_embeddings": True}, 256000)


LLAMA_8B = _llama(4096, 14336, 32, 32)
LLAMA_70B = _llama(8192, 28672, 80, 64)
TINYLLAMA = _llama(
    2048, 5632, 22, 32, head_dim=64, num_key_value_heads=4, vocab_size=32000, tokens=32000
)
GEMMA3_1B = Known(
    "gemma3_text",
    {
        **dict(zip(SIZES, (1152, 6912, 26, 4), strict=True)),
        **{"num_key_value_heads": 1, "head_dim": 256, "sliding_window": 512},
        **{"vocab_size": 262144, "tie_word_embeddings": True},
    },
    262144,
)
MODELS = {
    "meta-llama/Llama-3.2-1B": _llama(2048, 8192, 16, 32, tied=True, head_dim=64),
    "meta-llama/Llama-3.2-3B": _llama(3072, 8192, 28, 24, tied=True),
    "meta-llama/Llama-3.1-8B": LLAMA_8B,
    "meta-llama/Llama-3.1-70B": LLAMA_70B,
    "meta-llama/Llama-3.3-70B": LLAMA_70B,
    "meta-llama/Meta-Llama-3-8B": LLAMA_8B,
    "meta-llama/Meta-Llama-3-70B": LLAMA_70B,
    "nvidia/OpenMath2-Llama3.1-8B": LLAMA_8B,
    "nvidia/OpenMath2-Llama3.1-70B": LLAMA_70B,
    "TinyLlama/TinyLlama-1.1B-intermediate-step-1431k-3T": TINYLLAMA,
    "TinyLlama/TinyLlama-1.1B-Chat-v1.0": TINYLLAMA,
    "HuggingFaceTB/SmolLM2-135M": _llama(
        576, 1536, 30, 9, head_dim=64, num_key_value_heads=3, tied=True, vocab_size=49152,
        tokens=49152,
    ),
    "google/gemma-2-2b": _gemma(2304, 9216, 26, 8, heads=4, head_dim=256),
    "google/gemma-2-9b": _gemma(3584, 14336, 42, 16, heads=8, head_dim=256),
    "google/gemma-2-27b": _gemma(4608, 36864, 46, 32, heads=16, head_dim=128),
    "Qwen/Qwen2.5-0.5B": _qwen(896, 4864, 24, 14, heads=2, rows=151936),
    "Qwen/Qwen2.5-1.5B": _qwen(1536, 8960, 28, 12, heads=2, rows=151936),
    "Qwen/Qwen2.5-3B": _qwen(2048, 11008, 36, 16, heads=2, rows=151936),
    "Qwen/Qwen2.5-7B": _qwen(3584, 18944, 28, 28, heads=4),
    "Qwen/Qwen2.5-14B": _qwen(5120, 13824, 48, 40, heads=8),
    "Qwen/Qwen2.5-32B": _qwen(5120, 27648, 64, 40, heads=8),
    "Qwen/Qwen2.5-72B": _qwen(8192, 29568, 80, 64, heads=8),
    "Qwen/Qwen3-0.6B": _qwen3(1024, 3072, 28, 16, tied=True),
    "Qwen/Qwen3-1.7B": _qwen3(2048, 6144, 28, 16, tied=True),
    "Qwen/Qwen3-4B": _qwen3(2560, 9728, 36, 32, tied=True),
    "Qwen/Qwen3-8B": _qwen3(4096, 12288, 36, 32),
    "Qwen/Qwen3-14B": _qwen3(5120, 17408, 40, 40),
    "Qwen/Qwen3-32B": _qwen3(5120, 25600, 64, 64),
    "google/gemma-3-1b": GEMMA3_1B,
    "google/gemma-3-1b-pt": GEMMA3_1B,
}  # fmt: skip
ENDINGS = ("-Instruct", "-it", "-Base")  # tuned models have the shapes of their base


def known(name: str) -> Known | None:
    """The published model of a hub id (a revision does not matter); None if it is not here."""
    name = name.partition("@")[0]
    for ending in ENDINGS:
        name = name.removesuffix(ending)
    return MODELS.get(name)
