"""Windows: each token scored once, with as much context as fits."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.models.test_causal_lm import load
from tests.models.tiny import save_tiny
from tests.tokenizers.specs import tokenizer
from tokenkit.evaluation.bits_per_byte import batches_of, bits_per_byte, windows_of


@pytest.mark.parametrize("length", [1, 2, 5, 8, 9, 23, 64])
@pytest.mark.parametrize("max_length", [2, 5, 8])
def test_each_token_is_scored_once(length, max_length):
    ids = np.arange(length)
    scored = []
    for number, window in enumerate(windows_of(ids, max_length)):
        assert len(window.ids) <= max_length
        assert number == 0 or window.first >= max_length // 2
        scored += window.ids[window.first :].tolist()
    assert scored == list(range(1, length))


def test_batches_mark_the_right_positions():
    windows = windows_of(np.arange(10, 21), 6)
    for ids, mask, scored in batches_of(windows, 2, pad_id=0):
        assert (ids[~mask] == 0).all() and not scored[:, -1].any()
    total = sum(int(scored.sum()) for _, _, scored in batches_of(windows, 2, pad_id=0))
    assert total == 10


def test_batch_size_and_sharing_change_nothing(tmp_path):
    _, model = load(save_tiny(tmp_path / "m", "llama", vocab_size=1505))
    tok = tokenizer("bpe_a:source=Llama3")
    texts = ["def f(x):\n    return x", "日本", "a longer text " * 20]
    options = {"max_length": 16, "device": torch.device("cpu")}
    whole = bits_per_byte(model, tok, texts, batch_size=100, **options)
    assert bits_per_byte(model, tok, texts, batch_size=1, **options) == pytest.approx(
        whole, rel=1e-5
    )
    shares = [
        bits_per_byte(model, tok, texts, batch_size=2, rank=r, ranks=3, **options) for r in range(3)
    ]
    assert sum(shares) == pytest.approx(whole, rel=1e-5)
