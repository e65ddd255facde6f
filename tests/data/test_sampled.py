"""Sampled tokenizers in the stream of batches, and tokens as a hypernetwork reads them."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
import torch

from tests.data.support import SPEC_A, SPEC_B, equal, make_config, write_rows
from tokenkit.data import build_train_loader
from tokenkit.data.mixing import build_order
from tokenkit.data.sampled import TokenizerStream
from tokenkit.losses.lexical import Lexical
from tokenkit.tokenizers import encode_rows, load_tokenizer
from tokenkit.tokenizers.alphabet import literal_bytes
from tokenkit.tokenizers.sampling.token_forms import forms_for, make_token_forms

SAMPLER = {
    "enable": True, "size_mean": 800, "size_std": 40, "size_min": 600, "size_max": 900, "texts": 12,
}  # fmt: skip
ROWS = 1600


@pytest.fixture(scope="module")
def source():
    return load_tokenizer(SPEC_A)


@pytest.fixture
def file(tmp_path):
    words = "the quick brown fox jumps over the lazy dog and runs away from here".split()
    generator = np.random.default_rng(0)
    rows = [{"text": " ".join(generator.choice(words, 30)) + f" é{n}"} for n in range(40)]
    return write_rows(tmp_path / "rows.jsonl", rows)


def config_of(file, **sections):
    return make_config(
        file,
        hypernet={"architecture": "transformer", "max_surface_length": 5},
        tokenizer_sampler=SAMPLER,
        **sections,
    )


def loader(config, source, rank=0, ranks=1, **options):
    return build_train_loader(
        config, source, source, ("unconstrained",), rank, ranks, source_rows=ROWS, **options
    )


@pytest.mark.parametrize("spec", [SPEC_A, SPEC_B])
def test_forms_spell_every_token(source, spec):
    tok = load_tokenizer(spec)
    forms = make_token_forms(tok, source, 16, source_rows=ROWS, rows=2000)
    assert len(forms) == 2000 and forms.valid == len(tok)
    for i in range(len(tok)):
        ids = forms.ids[i, : forms.lengths[i]].tolist()
        if forms.copied[i]:
            assert len(ids) == 1
        elif tok.tokens[i]:
            spelt = b"".join(source.token_bytes[k] for k in ids)
            assert spelt == literal_bytes(tok.tokens[i])
    assert forms.boundary[: len(tok)].tolist() == tok.space_mask().tolist()
    assert not forms.boundary[len(tok) :].any() and (forms.lengths[len(tok) :] == 1).all()
    copied = forms.copied.nonzero().squeeze(1).tolist()
    assert {tok.tokens[i] for i in copied} >= {"<|begin_of_text|>", "<|eot_id|>"}
    if spec == SPEC_A:
        assert forms.ids[copied, 0].tolist() == copied
        tokens, same = forms.shared()
        assert torch.equal(tokens, same) and len(tokens) > 1000


@pytest.mark.parametrize("cut", [1, 16])
def test_shared_tokens_are_those_of_the_lexical_loss(source, cut):
    """However short forms are cut, and whatever lies behind the vocabulary."""
    tok = load_tokenizer(SPEC_B)
    found = make_token_forms(tok, source, cut, source_rows=ROWS, rows=2000).shared()
    loss = Lexical(make_config("x"), tok, source)
    assert torch.equal(found[0], loss.student_ids) and torch.equal(found[1], loss.teacher_ids)
    names = [tok.tokens[i] for i in found[0]]
    assert names == [source.tokens[i] for i in found[1]] and len(set(names)) == len(names)


def test_bytes_behind_the_source(source):
    tok = load_tokenizer(SPEC_B)
    plain = make_token_forms(tok, source, 16, source_rows=ROWS)
    behind = make_token_forms(tok, source, 16, source_rows=ROWS, bytes_behind=True)
    assert plain.ids.max() < ROWS <= behind.ids.max() < ROWS + 256
    assert (behind.shared()[1] < ROWS).all()


def test_special_tokens_without_a_row_are_spelt_out(source):
    tok = load_tokenizer(SPEC_B)
    begin = source.ids["<|begin_of_text|>"]
    forms = make_token_forms(tok, source, 16, source_rows=begin)
    assert not forms.copied[tok.ids["<|begin_of_text|>"]]


def test_batches_have_their_steps_tokenizer(file, source):
    config = config_of(file, training={"micro_batch_size": 4})
    steps = list(islice(loader(config, source), 2))
    assert not equal_forms(*steps)
    stream = TokenizerStream(config, source, ROWS, build_order(config))
    for step in (0, 1):
        tok = stream.at(step).tok
        assert 500 <= len(tok) <= 900 and len(stream.at(step).forms) == 900
        batch = steps[step].micro_batches[0]
        rows, _ = build_order(config).rows(range(8 * step, 8 * step + 4))
        for row, expected in enumerate(encode_rows(tok, rows)):
            ids = batch.student.ids[row][batch.student.mask[row]]
            assert ids.tolist() == expected.ids[:48].tolist()
        assert (batch.student.chunks["unconstrained"] >= 0).any()
        assert steps[step].vocabulary.valid == len(tok)


def equal_forms(one, other) -> bool:
    return torch.equal(one.vocabulary.ids, other.vocabulary.ids)


@pytest.mark.parametrize("streaming", [False, True])
def test_ranks_workers_and_a_later_start_see_the_same(file, source, streaming):
    data = {"train": [str(file)], "streaming": streaming, "shuffle_buffer": 10}
    config = config_of(file, data=data, training={"micro_batch_size": 4})
    whole = list(islice(loader(config, source), 3))
    for rank in (0, 1):
        for part, step in zip(islice(loader(config, source, rank, 2), 3), whole, strict=True):
            assert equal(part.micro_batches, step.micro_batches[rank::2])
            assert equal(part.vocabulary, step.vocabulary)
    later = loader(config, source)
    later.seek(1)
    assert all(equal(a, b) for a, b in zip(islice(later, 2), whole[1:], strict=True))
    data["num_workers"] = 2
    made = loader(config_of(file, data=data, training={"micro_batch_size": 4}), source)
    assert all(equal(a, b) for a, b in zip(islice(made, 3), whole, strict=True))
    made.close()


def test_markers_are_no_part_of_sampled_tokens(file, source):
    config = config_of(file)
    stream = TokenizerStream(config, source, ROWS, build_order(config))
    tok = stream.at(0).tok
    assert not any("<|<" in token or ">|>" in token for token in tok.tokens)


def test_forms_follow_the_config(source):
    config = make_config("x", hypernet={"max_surface_length": 1, "byte_embeddings": True})
    tok = load_tokenizer(SPEC_B)
    forms = forms_for(config, tok, source, ROWS)
    assert forms.ids.shape[1] == 1 and forms.ids.max() >= ROWS and forms.cut > 0
    assert forms.lengths.max() == 1
