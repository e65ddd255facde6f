"""Small real tokenizers of each kind, for tests."""

from __future__ import annotations

from functools import cache

from tests.launch import TOKENIZERS
from tokenkit.tokenizers import load_tokenizer

SPECS = [
    "bpe_a:source=Llama3",
    "bpe_b:source=Qwen2",
    "bpe_b:source=Qwen2:target=Llama3",
    "bpe_a:source=GPT2",
    "bpe_b:source=GPT2:target=Phi3",
    "spm:source=Gemma2",
    "spm:source=Gemma2:target=Qwen3",
    "bpe_a:source=Llama3:conversion=byte",
    "spm:source=Gemma2:conversion=byte",
]


@cache
def tokenizer(spec: str):
    return load_tokenizer(f"{TOKENIZERS}/{spec}")
