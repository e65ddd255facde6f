"""A whole model of transformers as what bits per byte are asked of."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.models.tiny import save_tiny
from tests.tokenizers.specs import tokenizer
from tokenkit.evaluation.bits_per_byte import document_bits
from tokenkit.inference.scores import PlainScores
from tokenkit.models.causal_lm import load_causal_lm

TEXTS = ["def f(x):\n    return x", "日本", "a longer text " * 9]


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_bits_are_those_of_the_model_in_parts(tmp_path, family):
    """Rows beyond the tokenizer get nothing, and neither does padding."""
    tok, cpu = tokenizer("bpe_a:source=Llama3"), torch.device("cpu")
    folder = save_tiny(tmp_path / "m", family, vocab_size=1600)
    options = {"max_bytes": 48, "batch_size": 2, "device": cpu}
    parts = load_causal_lm(str(folder), cpu, torch.float32, len(tok))
    whole = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    expected = document_bits(parts, tok, TEXTS, **options)
    found = document_bits(PlainScores(whole, len(tok)), tok, TEXTS, **options)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
