"""Expanded bytes: the embedding is a sum of two rows, in a padded, a packed and a scaled batch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from tokenkit.batch import Sequences
from tokenkit.byte_model.suffix_trie import SuffixTrie
from tokenkit.config import config_from_dict
from tokenkit.models.vocabulary.expanded import ExpandedVocabulary, Expansion
from tokenkit.models.vocabulary.registry import vocabulary_kind
from tokenkit.models.vocabulary.table import Vocabulary

# Symbols a=0, b=1, c=2 and padding; words ab, abc, bc, cc.
WORDS = {(0, 1): 10, (0, 1, 2): 11, (1, 2): 12, (2, 2): 13}
BYTES, SUBWORDS, WIDTH = 3, 14, 4


@pytest.fixture(scope="module")
def expansion() -> Expansion:
    torch.manual_seed(0)
    lengths = np.array([len(word) for word in WORDS])
    joined = np.array([i for word in WORDS for i in word])
    singles = np.array([1, 2, 3, 0])
    trie = SuffixTrie.build(singles, joined, lengths, np.array(list(WORDS.values())))
    return Expansion(torch.randn(SUBWORDS, WIDTH), trie, 3)


def vocabulary(expansion: Expansion, **options) -> ExpandedVocabulary:
    """Over a tied table, filled."""
    table = Vocabulary(BYTES + 1, WIDTH, tied=True, valid_vocab=BYTES, device="meta", **options)
    config = config_from_dict({"student": {"expand_input_ids": True}})
    kind = vocabulary_kind(config)
    assert kind is ExpandedVocabulary
    made = kind.over(table, config, torch.float32, expansion).to_empty(device="cpu")
    made.fill(torch.arange(BYTES * WIDTH).reshape(BYTES, WIDTH).float(), None)
    return made


def test_a_position_is_its_byte_and_the_longest_word(expansion):
    made = vocabulary(expansion)
    ids = torch.tensor([[0, 1, 2, 2, 1], [2, 2, 2, 1, 0]])
    mask = torch.tensor([[True] * 5, [True, True, True, True, False]])
    found = torch.tensor([[1, 10, 11, 13, 2], [3, 13, 13, 2, 0]])
    seq = Sequences.of(ids, mask)
    assert torch.equal(made.embed(seq), made.input[ids] + expansion.subwords[found])
    # Ids that came with the batch are taken as they are.
    given = replace(seq, subwords=torch.zeros_like(ids))
    assert torch.equal(made.embed(given), made.input[ids] + expansion.subwords[0])


def test_no_word_reaches_into_the_document_before(expansion):
    made = vocabulary(expansion)
    ids, positions = torch.tensor([[0, 1, 2, 2]]), torch.tensor([[0, 1, 0, 1]])
    found = torch.tensor([[1, 10, 3, 13]])
    seq = replace(Sequences.of(ids), positions=positions)
    assert torch.equal(made.embed(seq), made.input[ids] + expansion.subwords[found])


def test_the_sum_is_scaled(expansion):
    plain, scaled = vocabulary(expansion), vocabulary(expansion, embed_scale=2.0)
    seq = Sequences.of(torch.tensor([[0, 1, 2]]))
    assert torch.equal(scaled.embed(seq), 2 * plain.embed(seq))


def test_bytes_have_an_output_matrix_of_their_own_and_subwords_are_frozen(expansion):
    made = vocabulary(expansion)
    assert made.output is not None and torch.equal(made.output, made.input)
    assert not made.output[BYTES:].any()  # padding
    trained = {name for name, p in made.named_parameters() if p.requires_grad}
    assert trained == {"input", "output"}
    made.embed(Sequences.of(torch.tensor([[0, 1]]))).sum().backward()
    assert made.subwords.grad is None and made.input.grad[:2].eq(1).all()
    assert isinstance(made.subwords, nn.Parameter) and made.expansion is expansion
