"""Pruned and extended tokenizers: they write every text, and what is left is encoded as before."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from tests.tokenizers.samples import NAMES
from tokenkit.errors import TokenizerError
from tokenkit.tokenizers import extend, load_tokenizer, prune
from tokenkit.tokenizers.byteify import BYTE_PIECES
from tokenkit.tokenizers.editing.prune import ids_of_entries, most_frequent
from tokenkit.transfer.fvt import fvt

TEXTS = [
    "The quick brown fox jumps over the lazy dog, def f(x): return x + 12345",
    "  naïve\n\n\tcafé 日本語 👍 <|x|>\r\n",
    "an other and another; the there then theirs",
]
FEW = {"bytes", "gemma_bytes"}
ONE_SPACE = {"spaced", "metaspace"}  # encode "x" and " x" alike


def some_ids(tok, share: float = 0.3, seed: int = 0) -> list[int]:
    rng = np.random.default_rng(seed)
    return np.flatnonzero(rng.random(len(tok)) < share).tolist()


@pytest.fixture(scope="module")
def pruned(tok):
    cache = {}

    def get(name: str):
        if name not in cache:
            cache[name] = prune(tok(name), some_ids(tok(name)))
        return tok(name), cache[name]

    return get


@pytest.mark.parametrize("name", NAMES)
def test_writes_every_text(pruned, name: str) -> None:
    full, small = pruned(name)
    assert len(small) < len(full) or name in FEW
    for text in TEXTS:
        written = small.decode(small.encode(text))
        assert written == full.decode(full.encode(text))
        assert written == text or name in ONE_SPACE
    assert small.marker_ids.keys() == full.marker_ids.keys()
    for marker, ids in full.marker_ids.items():
        assert (ids is None) == (small.marker_ids[marker] is None)
        if ids is not None:
            assert [full.tokens[i] for i in ids] == [
                small.tokens[i] for i in small.marker_ids[marker]
            ]


@settings(max_examples=25, deadline=None)
@given(text=st.text(max_size=30).map(lambda text: text.replace("<|<", "<<").replace("▁", "_")))
@pytest.mark.parametrize("name", ["llama3", "gemma2", "tiny_llama", "gpt2"])
def test_writes_any_text(pruned, name: str, text: str) -> None:
    small = pruned(name)[1]
    assert small.decode(small.encode(text)) == text


@pytest.mark.parametrize("name", NAMES)
def test_every_token_is_built(pruned, name: str) -> None:
    """Each entry of the model's vocabulary encodes to itself, or is a special token or a byte."""
    full, small = pruned(name)
    bare = Tokenizer(small.hf.backend_tokenizer.model)
    added = {t.content for t in small.hf.added_tokens_decoder.values()}
    for native, i in bare.get_vocab().items():
        if native not in added and native not in BYTE_PIECES:
            assert bare.encode(native, add_special_tokens=False).ids == [i]


@pytest.mark.parametrize("name", [n for n in NAMES if n not in FEW])
def test_kept_words_are_encoded_as_before(tok, name: str) -> None:
    """All tokens of a text are kept: then the text is encoded to the same tokens."""
    full = tok(name)
    ids = full.encode(TEXTS[0])
    small = prune(full, ids.tolist())
    assert len(small) < len(full)
    assert [small.tokens[i] for i in small.encode(TEXTS[0])] == [full.tokens[i] for i in ids]


@pytest.mark.parametrize("name", NAMES)
def test_keeping_all_changes_no_encoding(tok, name: str) -> None:
    full = tok(name)
    same = prune(full, range(len(full)))
    for text in TEXTS:
        assert [same.tokens[i] for i in same.encode(text)] == [
            full.tokens[i] for i in full.encode(text)
        ]


@pytest.mark.parametrize("name", NAMES)
def test_rows_are_the_original_ones(pruned, name: str) -> None:
    full, small = pruned(name)
    matrix = torch.arange(len(full)).float().unsqueeze(1)
    new, report = fvt(full, small, [matrix])
    assert report["averaged"] == report["fallback"] == 0
    natives = full.hf.convert_ids_to_tokens(new[0][:, 0].int().tolist())
    assert natives == small.hf.convert_ids_to_tokens(range(len(small)))


@pytest.mark.parametrize("name", ["llama3", "gemma2", "tiny_llama", "qwen3", "spaced"])
def test_saved_folder_loads_as_the_same(pruned, name: str, tmp_path) -> None:
    _, small = pruned(name)
    small.save(tmp_path)
    plain = AutoTokenizer.from_pretrained(tmp_path)
    for text in TEXTS:
        assert plain(text, add_special_tokens=False)["input_ids"] == small.encode(text).tolist()
    again = load_tokenizer(f"{tmp_path}:source={small.family.name}")
    assert again.tokens == small.tokens


def test_most_frequent(tok) -> None:
    t = tok("llama3")
    ids = t.encode("a b a c a b").tolist()
    got = most_frequent(t, ["a b a c a b"], 3)
    counts = {i: ids.count(i) for i in ids}
    assert got == sorted(counts, key=lambda i: (-counts[i], i))[:3]
    assert set(most_frequent(t, ["a b a c a b"], 10**6)) == set(ids)


def test_names_what_is_wrong(tok) -> None:
    with pytest.raises(TokenizerError, match="'no such token' is no token of"):
        ids_of_entries(tok("llama3"), ["a", "no such token"])
    with pytest.raises(TokenizerError, match="id 99999 is no token of"):
        prune(tok("llama3"), [99999])
    with pytest.raises(TokenizerError, match="an empty token cannot be added"):
        extend(tok("llama3"), [""])
    with pytest.raises(TokenizerError, match="entry of that name for other bytes"):
        extend(tok("llama3"), ["Ġthe"])


@pytest.mark.parametrize("name", NAMES)
def test_extended(tok, name: str, tmp_path) -> None:
    full = tok(name)
    words = ["quickbrown", "日本語文", " lazy dogs"]
    wide = extend(full, words)
    assert len(wide) == len(full) + 3 and wide.tokens[: len(full)] == full.tokens
    text = "a quickbrown fox 日本語文"
    ids = wide.encode(text).tolist()
    assert {len(full), len(full) + 1} <= set(ids)
    assert wide.decode(ids) == text or name in ONE_SPACE
    assert not any(t.special for t in wide.hf.added_tokens_decoder.values() if t.content in words)
    matrix = torch.randn(len(full), 4)
    new, report = fvt(full, wide, [matrix])
    assert torch.equal(new[0][: len(full)], matrix) and report["averaged"] == 3
    for i in range(len(full), len(wide)):
        pieces = full.tokenize_bytes(wide.tokens[i])
        torch.testing.assert_close(new[0][i], matrix[pieces].mean(0))
    wide.save(tmp_path)
    plain = AutoTokenizer.from_pretrained(tmp_path)
    assert plain(text, add_special_tokens=False)["input_ids"] == ids


REAL = os.environ.get("TOKENKIT_TOKENIZERS", "")


@pytest.mark.slow
@pytest.mark.skipif(not REAL, reason="TOKENKIT_TOKENIZERS names no folder of real tokenizers")
@pytest.mark.parametrize("name", ["llama2", "llama3", "gemma2", "qwen2_5"])
def test_real_tokenizers(name: str) -> None:
    full = load_tokenizer(str(Path(REAL) / name))
    text = Path(__file__).read_text()
    small = prune(full, most_frequent(full, [text], 2000))
    assert len(small) < len(full) / 10
    assert [small.tokens[i] for i in small.encode(text)] == [
        full.tokens[i] for i in full.encode(text)
    ]
    for text in TEXTS:
        assert small.decode(small.encode(text)) == text
