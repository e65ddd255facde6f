"""Cover sets and pair biases against their definition, by asking the tokenizer for every text."""

from __future__ import annotations

import os
import random
from functools import cache

import numpy as np
import pytest

from tests.tokenizers import samples
from tokenkit.errors import TokenizerError
from tokenkit.tokenizers import load_pair_bias, load_tokenizer
from tokenkit.tokenizers.alphabet import literal_bytes
from tokenkit.tokenizers.pairs.cover_sets import Extensions, cover_sets, is_byteified
from tokenkit.tokenizers.pairs.statistics import (
    is_blank,
    pair_bias,
    save_pair_bias,
    suffix_pairs,
    unigram_probabilities,
)


def is_utf8(token):
    try:
        literal_bytes(token).decode()
    except UnicodeDecodeError:
        return False
    return True


@cache
def defined_cover_set(tok, token):
    """Extension -> last token: every token that begins inside ``token`` is tried."""
    found = {}
    for i in range(len(token)):
        if not is_utf8(token[:i]):
            continue
        nexts = [t for t in tok.ids if t.startswith(token[i:]) and t != token[i:]]
        nexts = [t for t in nexts if is_byteified(t) and is_utf8(t)]
        before, *whole = tok.tokenize_bytes_batch([token[:i], *(token[:i] + t for t in nexts)])
        for t, ids in zip(nexts, whole, strict=True):
            if ids == [*before, tok.ids[t]]:
                found[t[len(token) - i :]] = tok.ids[t]
    return found


def computed_cover_sets(tok, tokens):
    extensions = Extensions()
    sets = cover_sets(tok, tokens, extensions)
    texts = list(extensions.numbers)
    found = {}
    for token in tokens:
        members = sets.members_of(sets.groups_of(np.array([tok.ids[token]]))[0])[0]
        pairs = [(texts[sets.extensions[m]], int(sets.last[m])) for m in members]
        found[token] = dict(pairs)
        assert len(found[token]) == len(pairs), "an extension is counted twice"
    return found


def some_tokens(tok, count, seed=0):
    tokens = sorted(t for t in tok.ids if is_byteified(t))
    chosen = np.random.default_rng(seed).choice(len(tokens), min(count, len(tokens)), replace=False)
    return [tokens[i] for i in sorted(chosen)]


def variant(root, name):
    """Merges out of their order; or whole words that the merges do not build any more."""
    data = samples.read_json("bpe_a")
    merges = data["model"]["merges"]
    if name == "shuffled":
        random.Random(0).shuffle(merges)
    else:
        data["model"]["ignore_merges"] = True
        data["model"]["merges"] = [m for k, m in enumerate(merges) if k % 10]
    return load_tokenizer(f"{samples.write_folder(root, data)}:source=Llama3")


@pytest.mark.parametrize(
    "name", ["llama3", "qwen2", "gemma2", "bytes", "tiny_llama", "shuffled", "uncut"]
)
def test_cover_sets_are_as_defined(tok, tmp_path, name):
    t = variant(tmp_path, name) if name in ("shuffled", "uncut") else tok(name)
    tokens = some_tokens(t, 150)
    found = computed_cover_sets(t, tokens)
    assert found == {token: defined_cover_set(t, token) for token in tokens}
    assert name == "bytes" or sum(map(len, found.values())) > 300


def test_repeated_characters(tok):
    """Merges of equal rank go from left to right: "aaa" is "aa" + "a"."""
    t = tok("llama3")
    tokens = [token for token in t.ids if len(token) > 1 and len(set(token)) == 1]
    assert len(tokens) > 10
    found = computed_cover_sets(t, tokens)
    assert found == {token: defined_cover_set(t, token) for token in tokens}


def test_tokens_that_are_not_asked_for_have_no_set(tok):
    sets = cover_sets(tok("llama3"), ["er"], Extensions())
    sizes = np.diff(sets.token_bounds)
    assert sizes.sum() == sizes[tok("llama3").ids["er"]] == 2


def counts_of(t, seed):
    return np.random.default_rng(seed).integers(0, 100, len(t))


def test_pair_bias_is_as_defined(tok):
    teacher, student = tok("llama3"), tok("gemma2")
    probabilities = [
        unigram_probabilities(t, counts_of(t, i)) for i, t in enumerate((teacher, student))
    ]
    found = pair_bias(teacher, student, *probabilities, blank_bias=None)
    pairs = suffix_pairs(teacher, student)
    chosen = np.random.default_rng(0).choice(len(pairs.teacher), 200, replace=False)
    positive = 0
    for i, j in zip(pairs.teacher[chosen], pairs.student[chosen], strict=True):
        first = defined_cover_set(teacher, teacher.tokens[i])
        second = defined_cover_set(student, student.tokens[j])
        bias1 = sum(float(probabilities[0][t]) for e, t in first.items() if e not in second)
        bias2 = sum(float(probabilities[1][t]) for e, t in second.items() if e not in first)
        np.testing.assert_allclose(
            [found.bias1[i, j], found.bias2[i, j]], [bias1, bias2], rtol=1e-5
        )
        positive += bias1 > 0
    assert positive > 50


def test_a_tokenizer_has_no_bias_against_itself(tok):
    t = tok("qwen2")
    probabilities = unigram_probabilities(t, counts_of(t, 0))
    found = pair_bias(t, t, probabilities, probabilities, blank_bias=None)
    ids = np.array([i for i in t.ids.values() if i not in t.special_ids])
    for matrix in (found.bias1, found.bias2):
        assert matrix[ids, ids].max() == 0.0
    assert (found.bias1 != found.bias2.T).nnz == 0


def test_pairs_are_all_suffixes_without_special_tokens(tok):
    teacher, student = tok("llama3"), tok("qwen2")
    sides = [
        [(token, i) for token, i in t.ids.items() if token and i not in t.special_ids]
        for t in (teacher, student)
    ]
    expected = [(i, j) for a, i in sides[0] for b, j in sides[1] if a.endswith(b) or b.endswith(a)]
    pairs = suffix_pairs(teacher, student)
    assert sorted(expected) == list(zip(pairs.teacher, pairs.student, strict=True))


def test_blank_tokens_are_biased_unless_computed(tok):
    teacher, student = tok("llama3"), tok("qwen2")
    probabilities = [unigram_probabilities(t, counts_of(t, 3)) for t in (teacher, student)]
    found = pair_bias(teacher, student, *probabilities)
    exact = pair_bias(teacher, student, *probabilities, blank_bias=None)
    pairs = suffix_pairs(teacher, student)
    blank = is_blank(teacher)[pairs.teacher] | is_blank(student)[pairs.student]
    assert teacher.tokens[np.flatnonzero(is_blank(teacher))[0]].strip("ĠĊĉčċĈ") == ""
    assert 0 < blank.sum() < len(blank)
    for a, b in ((found.bias1, exact.bias1), (found.bias2, exact.bias2)):
        a, b = (np.asarray(m[pairs.teacher, pairs.student]).reshape(-1) for m in (a, b))
        assert (a[blank] == 1).all() and (b[blank] < 1).all()
        np.testing.assert_array_equal(a[~blank], b[~blank])


def test_probabilities(tok):
    t = tok("llama3")
    counts = np.zeros(len(t), np.int64)
    counts[[5, 7]] = 30, 10
    found = unigram_probabilities(t, counts, additive=0.01)
    special = sorted(t.special_ids)
    total = 40 + 30 * len(special)
    expected = np.full(len(t), 0.01 * total)
    expected[[5, 7]] += 30, 10
    expected[special] += 30
    np.testing.assert_allclose(found, expected / expected.sum(), rtol=1e-5)
    with pytest.raises(TokenizerError, match="no token .* was counted"):
        unigram_probabilities(t, np.zeros(len(t)))
    with pytest.raises(TokenizerError, match="have shape"):
        unigram_probabilities(t, counts[:-1])


def test_what_is_saved_is_loaded(tok, tmp_path):
    teacher, student = tok("llama3"), tok("qwen2")
    probabilities = [unigram_probabilities(t, counts_of(t, 3)) for t in (teacher, student)]
    bias = pair_bias(teacher, student, *probabilities)
    save_pair_bias(bias, tmp_path)
    loaded = load_pair_bias(tmp_path)
    for a, b in ((loaded.bias1, bias.bias1), (loaded.bias2, bias.bias2)):
        assert a.shape == (len(teacher), len(student)) and a.nnz == b.nnz
        assert (a != b).nnz == 0


@pytest.mark.slow
@pytest.mark.parametrize("spec", ["llama3:source=Llama3", "llama2:source=TinyLlama"])
def test_cover_sets_of_real_tokenizers(spec):
    if "TOKENKIT_TOKENIZERS" not in os.environ:
        pytest.skip("needs real tokenizers: set TOKENKIT_TOKENIZERS")
    t = load_tokenizer(f"{os.environ['TOKENKIT_TOKENIZERS']}/{spec}")
    tokens = some_tokens(t, 20)
    found = computed_cover_sets(t, tokens)
    assert found == {token: defined_cover_set(t, token) for token in tokens}
