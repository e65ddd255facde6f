"""FVT against the definition, and what it promises."""

from __future__ import annotations

import torch

from tests.tokenizers.specs import tokenizer
from tokenkit.transfer import fvt
from tokenkit.transfer.fvt import column_statistics, compose


def test_same_tokenizer_is_exact():
    tok = tokenizer("bpe_a:source=Llama3")
    matrix = torch.randn(len(tok), 8).bfloat16()
    (made,), report = fvt(tok, tok, [matrix])
    assert torch.equal(made, matrix)
    assert report["averaged"] == report["fallback"] == 0


def test_new_tokens_are_means_of_their_pieces():
    source, target = tokenizer("bpe_b:source=Qwen2"), tokenizer("bpe_a:source=Llama3")
    matrix = torch.randn(len(source), 4)
    (made,), _ = fvt(source, target, [matrix])
    new = [i for i, t in enumerate(target.tokens) if t not in source.ids and t.isalpha()][:50]
    for number in new:
        pieces = source.tokenize_bytes(target.tokens[number])
        torch.testing.assert_close(made[number], matrix[pieces].mean(0))


def test_drawn_rows_are_seeded_and_follow_the_columns():
    matrix = torch.randn(500, 3) * torch.tensor([1.0, 2.0, 3.0]) + 5
    parts = [[] for _ in range(4000)]
    drawn = compose(matrix, parts, seed=1)
    assert torch.equal(drawn, compose(matrix, parts, seed=1))
    assert not torch.equal(drawn, compose(matrix, parts, seed=2))
    torch.testing.assert_close(drawn.mean(0), matrix.mean(0), atol=0.3, rtol=0)
    torch.testing.assert_close(drawn.std(0), matrix.std(0), atol=0.3, rtol=0)


def test_column_statistics():
    matrix = torch.randn(300, 5)
    mean, std = column_statistics(matrix)
    torch.testing.assert_close(mean, matrix.mean(0))
    torch.testing.assert_close(std, matrix.std(0, correction=0))


def test_rows_beyond_the_matrix_are_not_used():
    source, target = tokenizer("bpe_a:source=Llama3"), tokenizer("bpe_b:source=Qwen2:target=Llama3")
    matrix = torch.randn(1500, 4)  # the special tokens were added to the tokenizer only
    (made,), report = fvt(source, target, [matrix])
    assert made.shape == (len(target), 4) and report["fallback"] >= 5
