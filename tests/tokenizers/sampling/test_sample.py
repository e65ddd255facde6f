"""Substring statistics, sampled tokenizers and surface forms against brute force."""

from __future__ import annotations

import pickle
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tokenizers.specs import tokenizer
from tokenkit.errors import ConfigError
from tokenkit.tokenizers import (
    FAMILIES,
    Conversation,
    Document,
    SamplerSettings,
    count_pretokens,
    encode_rows,
    sample_tokenizer,
    surface_forms,
)
from tokenkit.tokenizers.alphabet import from_alphabet, to_alphabet
from tokenkit.tokenizers.sampling.substrings import count_substrings
from tokenkit.tokenizers.sampling.surface_forms import whole_characters

TEXTS = [
    "The cat sat on the mat; the other cat's hat wasn't there.\n\n    def f(x):\n\t\treturn x",
    "naïve 日本語 日本 emoji 👍👍 the the the",
    "",
]
SMALL = SamplerSettings(size_mean=500, size_min=450, size_max=500, noise_mean=0.0)


def like(family: str):
    return tokenizer(f"bpe_a:source=Llama3:target={family}")


def brute_force(counts: dict[str, int], longest: int) -> Counter[str]:
    found: Counter[str] = Counter()
    for pretoken, count in counts.items():
        for a in range(len(pretoken)):
            for b in range(a + 1, len(pretoken) + 1):
                if len(pretoken[a:b].encode()) <= longest:
                    found[pretoken[a:b]] += count
    return found


@given(st.lists(st.text(alphabet="ab é日👍\n1", max_size=30), max_size=5), st.integers(1, 7))
@settings(max_examples=60, deadline=None)
def test_substrings_equal_brute_force(texts, longest):
    counts = count_pretokens(texts)
    found = count_substrings(counts, longest)
    by_text = {found.text(i).decode(): int(found.count[i]) for i in range(len(found))}
    assert len(by_text) == len(found)
    assert by_text == brute_force(counts, longest)


def test_pretokens_cut_like_the_tokenizer():
    sampled = sample_tokenizer(
        count_pretokens(TEXTS), SMALL, like("Llama3"), np.random.default_rng(0)
    )
    cut = sampled.tok.hf.backend_tokenizer.pre_tokenizer.pre_tokenize_str
    for text in TEXTS:
        expected = [from_alphabet(piece).decode() for piece, _ in cut(text)]
        assert list(count_pretokens([text])) == list(dict.fromkeys(expected))


def test_without_noise_the_best_substrings_become_tokens():
    counts = count_pretokens(TEXTS * 3)
    tok = sample_tokenizer(counts, SMALL, like("Llama3"), np.random.default_rng(0)).tok
    assert len(tok) == 500
    scores = {s: n * len(s.encode()) for s, n in brute_force(counts, 16).items()}
    chosen = {s for s in scores if to_alphabet(s.encode()) in tok.ids}
    left_out = set(scores) - chosen
    pieces = {from_alphabet(t).decode() for t in tok.tokens[256 + 140 :] if t in tok.ids and
              t not in FAMILIES["Llama3"].special_tokens}  # fmt: skip
    assert pieces <= chosen
    assert min(scores[s] for s in pieces) >= max(scores[s] for s in left_out)


def test_log_probs_are_the_shares():
    counts = count_pretokens(TEXTS)
    sampled = sample_tokenizer(counts, SMALL, like("Llama3"), np.random.default_rng(0))
    scores = {s: n * len(s.encode()) for s, n in brute_force(counts, 16).items()}
    share = scores[" the"] / sum(scores.values())
    assert sampled.log_probs[sampled.tok.ids["Ġthe"]] == pytest.approx(np.log(share))
    least = min(scores.values()) / sum(scores.values())
    assert sampled.log_probs[sampled.tok.ids["Q"]] == pytest.approx(np.log(least))


@pytest.mark.parametrize("family", FAMILIES)
def test_any_text_round_trips_in_every_family(family):
    sampled = sample_tokenizer(
        count_pretokens(TEXTS), SMALL, like(family), np.random.default_rng(1)
    )
    tok = pickle.loads(pickle.dumps(sampled.tok))  # data workers pickle tokenizers
    for text in [*TEXTS, "\x00 ﷽ Ω≈ç√ 🏴‍☠️ <|other|>"]:
        assert tok.decode(tok.encode(text)) == text
    assert len(sampled.log_probs) == len(tok)
    for marker, tokens in FAMILIES[family].replacements.items():
        assert (tokens is None) == (tok.marker_ids[marker] is None)
        assert tokens is None or len(tok.marker_ids[marker]) == len(tokens)


def test_seeded_and_independent_of_the_order_of_texts():
    noisy = SamplerSettings(size_mean=480, size_std=20, size_min=450, size_max=520, noise_mean=1e-3)

    def draw(texts, seed):
        rng = np.random.default_rng(seed)
        sampled = sample_tokenizer(count_pretokens(texts), noisy, like("GPT2"), rng)
        return sampled.tok.tokens, sampled.log_probs.tolist()

    first = draw(TEXTS, 1)
    assert draw(TEXTS[::-1], 1) == first
    assert draw(TEXTS, 2) != first


def test_without_text_there_are_still_all_bytes():
    tok = sample_tokenizer({}, SMALL, like("GPT2"), np.random.default_rng(0)).tok
    assert tok.decode(tok.encode("é\n")) == "é\n"


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"size_min": 10, "size_max": 5}, "size_min = 10"),
        ({"noise_mean": -1.0}, "noise_mean = -1.0"),
        ({"max_bytes": 0}, "max_bytes = 0"),
    ],
)
def test_bad_settings_are_named(values, named):
    with pytest.raises(ConfigError, match=named):
        SamplerSettings(**values)


def test_too_small_a_vocabulary_is_refused():
    tiny = SamplerSettings(size_mean=300, size_min=1, size_max=300)
    with pytest.raises(ConfigError, match="a vocabulary of 300 tokens is too small"):
        sample_tokenizer({"a": 1}, tiny, like("GPT2"), np.random.default_rng(0))


def test_surface_forms_spell_the_token_and_cut_long_ones():
    tok = tokenizer("bpe_a:source=Llama3")
    tokens = ["Ġreturn", "<|eot_id|>", "", "é"[:1], to_alphabet("é日".encode()[1:4])]
    forms, lengths = surface_forms(tokens, tok, 3)
    assert forms.shape == (5, 3) and forms.dtype == np.int32 and lengths.max() <= 3
    for form, token in zip(forms, tokens, strict=True):
        assert "".join(tok.tokens[i] for i in form if i != tok.pad_id) == token
    assert forms[1].tolist() == [tok.ids["<|eot_id|>"], tok.pad_id, tok.pad_id]
    assert surface_forms([to_alphabet(b"zzzzqqqqzzzz")], tok, 2)[1] > 2


def test_surface_forms_with_byte_embeddings():
    tok = tokenizer("bpe_a:source=Llama3")
    token = to_alphabet("日".encode()[1:] + b" a")
    forms, _ = surface_forms([token], tok, 4, byte_offset=1000)
    rest = forms[0, 2:][forms[0, 2:] != tok.pad_id]
    assert forms[0, :2].tolist() == [1000 + b for b in "日".encode()[1:]]
    assert "".join(tok.tokens[i] for i in rest) == "Ġa"


@given(st.binary(max_size=7))
@settings(max_examples=200, deadline=None)
def test_whole_characters_is_the_longest_text(raw):
    begin, end = whole_characters(raw)
    raw[begin:end].decode()
    for a in range(len(raw)):
        for b in range(a + end - begin + 1, len(raw) + 1):
            with pytest.raises(UnicodeDecodeError):
                raw[a:b].decode()


def test_chats_and_texts_are_written_as_by_the_tokenizer_it_is_like():
    source = tokenizer("bpe_a:source=Llama3")
    tok = sample_tokenizer(count_pretokens(TEXTS), SMALL, source, np.random.default_rng(0)).tok
    chat = [{"role": "user", "content": "the cat"}, {"role": "assistant", "content": "é 日本"}]
    rows = [Document("the cat"), Conversation(chat), Conversation(chat, open=True)]
    found, expected = encode_rows(tok, rows), encode_rows(source, rows)
    assert [row.data for row in found] == [row.data for row in expected]
    assert tok.text_bos == source.text_bos == "<|begin_of_text|>"
    special = [[t.tokens[i] for i in rows[1].ids if t.tokens[i].startswith("<|")]
               for t, rows in ((tok, found), (source, expected))]  # fmt: skip
    assert special[0] == special[1] and len(special[0]) == 7
