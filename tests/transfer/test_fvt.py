"""FVT: against a plain loop over tokens, in every dtype, with drawn rows of the right moments."""

from __future__ import annotations

from importlib import import_module

import pytest
import torch

from tests.tokenizers.samples import read_json, tokenizer, write_folder
from tokenkit.errors import ConfigError, ModelError
from tokenkit.tokenizers import load_tokenizer
from tokenkit.tokenizers.alphabet import to_alphabet
from tokenkit.tokenizers.roles import COPIED_MARKERS
from tokenkit.transfer import INITIALIZERS
from tokenkit.transfer.fvt import fvt
from tokenkit.transfer.new_rows import CHUNK_ROWS, moments

PAIRS = [("llama3", "qwen2"), ("gemma2", "llama3"), ("qwen2", "gemma2"), ("bytes", "gpt2"),
         ("llama3", "gemma_bytes"), ("llama3", "llama3")]  # fmt: skip


def origins_of(source, target) -> list[tuple[str, list[int]]]:
    """Origin of every target token and the source ids it is copied or averaged from."""
    special = {}
    for marker in COPIED_MARKERS:
        ours, theirs = target.family.replacements[marker], source.family.replacements[marker]
        if ours and theirs:
            special[ours[0]] = theirs[0]
    origins = []
    for token in target.tokens:
        if token in special:
            origins.append(("special", [source.ids[special[token]]]))
        elif token in source.ids:
            origins.append(("exact", [source.ids[token]]))
        elif pieces := source.tokenize_bytes(token):
            origins.append(("averaged", pieces))
        else:
            origins.append(("fallback", []))
    return origins


def slow(source, target, matrix: torch.Tensor) -> tuple[dict[int, torch.Tensor], dict[str, int]]:
    """Rows that are not drawn, one after the other, and the origin of all."""
    rows, report = {}, dict.fromkeys(("special", "exact", "averaged", "fallback"), 0)
    for i, (origin, ids) in enumerate(origins_of(source, target)):
        report[origin] += 1
        if origin in ("special", "exact"):
            rows[i] = matrix[ids[0]]
        elif origin == "averaged":
            rows[i] = (matrix[ids] if matrix.dtype == torch.float64 else matrix[ids].float()).mean(
                0
            )
    return rows, report


@pytest.mark.parametrize(("source", "target"), PAIRS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_equals_plain_loop(tmp_path, source: str, target: str, dtype: torch.dtype) -> None:
    s, t = tokenizer(source, tmp_path), tokenizer(target, tmp_path)
    generator = torch.Generator().manual_seed(0)
    matrices = [torch.randn(len(s), 6, generator=generator).to(dtype) for _ in range(2)]
    made, report = fvt(s, t, matrices, seed=3)
    for matrix, new in zip(matrices, made, strict=True):
        expected, origins = slow(s, t, matrix)
        assert new.shape == (len(t), 6) and new.dtype == dtype and new.isfinite().all()
        assert report == origins and sum(report.values()) == len(t)
        rows = torch.tensor(list(expected))
        torch.testing.assert_close(
            new[rows], torch.stack([expected[i].to(dtype) for i in rows.tolist()])
        )


def test_same_tokenizer_gives_the_same_matrix(tmp_path) -> None:
    t = tokenizer("gemma2", tmp_path)
    matrix = torch.randn(len(t), 5)
    assert len(t.ids) < len(t)  # some bytes are both a piece and a byte-fallback piece
    assert torch.equal(fvt(t, t, [matrix])[0][0], matrix)


def test_special_tokens_go_by_role(tmp_path) -> None:
    s, t = tokenizer("llama3", tmp_path), tokenizer("gemma2", tmp_path)
    matrix = torch.arange(len(s)).float().unsqueeze(1).expand(-1, 2)
    new = fvt(s, t, [matrix])[0][0][:, 0]
    roles = {"<bos>": "<|begin_of_text|>", "<pad>": "<|end_of_text|>",
             "<start_of_turn>": "<|start_header_id|>", "<end_of_turn>": "<|eot_id|>",
             "model": "assistant", "Ċ": "<|end_header_id|>"}  # fmt: skip
    for ours, theirs in roles.items():
        assert new[t.ids[ours]] == s.ids[theirs]


def test_where_one_token_has_two_roles_the_more_important_wins(tmp_path) -> None:
    """Qwen3's <|endoftext|> is BOS and PAD; Gemma's are two tokens."""
    s, t = tokenizer("gemma2", tmp_path), tokenizer("qwen3", tmp_path)
    matrix = torch.arange(len(s)).float().unsqueeze(1)
    assert fvt(s, t, [matrix])[0][0][t.ids["<|endoftext|>"], 0] == s.ids["<bos>"]


def test_rows_beyond_the_source_matrix_are_not_read(tmp_path) -> None:
    """A checkpoint may have fewer rows than its tokenizer has tokens."""
    s, t = tokenizer("llama3", tmp_path), tokenizer("qwen2", tmp_path)
    matrix = torch.randn(900, 3)
    new, report = fvt(s, t, [matrix])
    assert new[0].shape == (len(t), 3) and report["special"] < 7 and report["fallback"] > 0


def test_drawn_rows(tmp_path) -> None:
    """Pieces of characters are drawn: reproducibly, with the columns' mean and deviation."""
    data = read_json("bpe_b")
    vocabulary = data["model"]["vocab"]
    for second in range(0x80, 0xA0):  # the first two of the three bytes of Chinese characters
        vocabulary.setdefault(to_alphabet(bytes([0xE6, second])), len(vocabulary))
    t = load_tokenizer(f"{write_folder(tmp_path / 'halves', data)}:source=GPT2")
    s = tokenizer("llama3", tmp_path)
    generator = torch.Generator().manual_seed(1)
    matrix = torch.randn(len(s), 1000, generator=generator) * 3 + 7
    first, report = fvt(s, t, [matrix, matrix], seed=5)
    again, _ = fvt(s, t, [matrix, matrix], seed=5)
    other, _ = fvt(s, t, [matrix], seed=6)
    drawn = (first[0] != other[0]).any(1)
    assert report["fallback"] == int(drawn.sum()) > 20
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    assert not torch.equal(first[0][drawn], first[1][drawn])  # each matrix has its own
    assert abs(first[0][drawn].mean() - 7) < 0.05 and abs(first[0][drawn].std() - 3) < 0.05


def test_a_token_without_bytes_is_drawn(tmp_path) -> None:
    data = read_json("bpe_b")
    last = max(data["model"]["vocab"], key=data["model"]["vocab"].get)
    data["model"]["vocab"][last] += 5
    t = load_tokenizer(f"{write_folder(tmp_path / 'gaps', data)}:source=GPT2")
    new, report = fvt(tokenizer("llama3", tmp_path), t, [torch.randn(1505, 2)])
    assert report["fallback"] >= 1 and new[0].isfinite().all()


@pytest.mark.parametrize("rows", [1, 100, CHUNK_ROWS, CHUNK_ROWS + 1, 2 * CHUNK_ROWS + 7])
def test_moments(rows: int) -> None:
    matrix = torch.randn(rows, 3, generator=torch.Generator().manual_seed(rows)) + 100
    mean, std = moments(matrix.to(torch.bfloat16))
    expected = matrix.to(torch.bfloat16).double()
    torch.testing.assert_close(mean.double(), expected.mean(0), rtol=1e-6, atol=0)
    torch.testing.assert_close(std.double(), expected.std(0, correction=0), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("method", ["fvt", "mean", "random", "focus"])
def test_no_fp32_copy_of_the_matrix(tmp_path, monkeypatch, method: str) -> None:
    """Only chunks are cast; the largest seen is far below the matrix."""
    for room in ("new_rows", "focus"):
        monkeypatch.setattr(import_module(f"tokenkit.transfer.{room}"), "CHUNK_ROWS", 64)
    largest = 0
    cast = torch.Tensor.float

    def spy(self):
        nonlocal largest
        if self.ndim == 2:
            largest = max(largest, len(self))
        return cast(self)

    monkeypatch.setattr(torch.Tensor, "float", spy)
    s, t = tokenizer("llama3", tmp_path), tokenizer("gemma2", tmp_path)
    INITIALIZERS.get(method)(s, t, [torch.randn(len(s), 4).to(torch.bfloat16)])
    assert 0 < largest <= 64 * 2


def test_is_registered_and_checks_its_input(tmp_path) -> None:
    assert INITIALIZERS.get("fvt") is fvt
    with pytest.raises(ConfigError, match="unknown embedding initialiser 'fwt'.*'fvt'"):
        INITIALIZERS.get("fwt")
    t = tokenizer("llama3", tmp_path)
    with pytest.raises(ModelError, match="different numbers of rows"):
        fvt(t, t, [torch.zeros(3, 2), torch.zeros(4, 2)])
