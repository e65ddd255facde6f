"""Input-id expansion against brute force, whole and one token at a time."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given, settings

from tests.tokenizers.specs import tokenizer
from tests.tokenizers.test_encode import TEXT
from tokenkit.errors import TokenizerError
from tokenkit.tokenizers import InputExpander, messages_to_markers

SPECS = ["bpe_a:source=Llama3", "spm:source=Gemma2"]
BYTES = {spec: tokenizer(f"{spec}:conversion=byte") for spec in SPECS}
EXPANDERS = {spec: InputExpander(BYTES[spec], tokenizer(spec)) for spec in SPECS}


def brute_force(byte, subword, ids: list[int]) -> list[int]:
    """The longest subword whose bytes are the last ones, for every position of one row."""
    expanded = []
    for end in range(1, len(ids) + 1):
        own = byte.tokens[ids[end - 1]]
        found = subword.ids.get(own)
        if found is None or ids[end - 1] not in byte.special_ids:
            for begin in range(end - 1, -1, -1):
                part = ids[begin:end]
                if set(part) & byte.special_ids and len(part) > 1:
                    break
                joined = "".join(byte.tokens[i] for i in part)
                # A token that bytes have of their own ("user") is never read byte by byte.
                if joined in subword.ids and (len(part) == 1 or joined not in byte.ids):
                    spelt = byte.tokenize_bytes(joined)
                    if len(part) == 1 or spelt == part or not spelt:
                        found = subword.ids[joined]
        expanded.append(found)
    return expanded


@pytest.mark.parametrize("spec", SPECS)
@given(text=TEXT)
@settings(max_examples=30, deadline=None)
def test_equals_brute_force(spec, text: str) -> None:
    byte, subword = BYTES[spec], tokenizer(spec)
    spaces = "\n" + " " * 40  # longer than any subword
    ids = byte.encode(f"<|<bos>|>def return user{spaces}{text}<|<eos>|> the").tolist()
    found = EXPANDERS[spec].expand(np.array([ids]))
    assert found.dtype == np.int32
    assert found[0].tolist() == brute_force(byte, subword, ids)


def test_a_long_subword_is_read_to_its_beginning() -> None:
    spec = SPECS[0]
    longest = "\n" + " " * 32
    subword, expander = tokenizer(spec), EXPANDERS[spec]
    assert expander.longest == len(longest)
    for text in (longest, longest[1:], "x" + longest[1:]):
        ids = BYTES[spec].encode(text)
        token = subword.tokens[expander.expand(ids[None])[0, -1]]
        assert text.endswith(token.replace("Ġ", " ").replace("Ċ", "\n"))
        assert (len(token) == len(longest)) is (text == longest)


def test_padding_does_not_matter() -> None:
    byte, subword = BYTES[SPECS[0]], tokenizer(SPECS[0])
    expander = pickle.loads(pickle.dumps(EXPANDERS[SPECS[0]]))  # data workers pickle it
    row = byte.encode("return self.items")
    plain = expander.expand(row[None])[0]
    for left, right in ((3, 0), (0, 4), (5, 2)):
        ids = np.full((1, left + len(row) + right), 7)
        mask = np.zeros(ids.shape, bool)
        ids[0, left : left + len(row)], mask[0, left : left + len(row)] = row, True
        found = expander.expand(ids, mask)
        assert found[0, left : left + len(row)].tolist() == plain.tolist()
        assert (found[~mask] == subword.pad_id).all()


@pytest.mark.parametrize("spec", SPECS)
def test_documents_of_a_packed_row_do_not_see_each_other(spec) -> None:
    byte, expander = BYTES[spec], EXPANDERS[spec]
    texts = ["def retu", "rn the num", "ber of i", "tems     ", "   import"]
    documents = [byte.encode(text) for text in texts]
    packed = np.concatenate(documents)[None]
    begins = np.zeros(packed.shape, bool)
    begins[0, np.cumsum([0, *map(len, documents[:-1])])] = True
    alone = np.concatenate([expander.expand(row[None])[0] for row in documents])
    assert expander.expand(packed, begins=begins)[0].tolist() == alone.tolist()
    assert expander.expand(packed)[0].tolist() != alone.tolist()


def test_special_tokens_are_themselves() -> None:
    byte, subword = BYTES[SPECS[0]], tokenizer(SPECS[0])
    ids = byte.encode(messages_to_markers([{"role": "user", "content": "x"}]))
    found = EXPANDERS[SPECS[0]].expand(ids[None])[0]
    for i, j in zip(ids.tolist(), found.tolist(), strict=True):
        if i in byte.special_ids:
            assert subword.tokens[j] == byte.tokens[i]


def test_bad_input_is_refused() -> None:
    subword = tokenizer(SPECS[0])
    with pytest.raises(TokenizerError, match="not byte-level; add ':conversion=byte'"):
        InputExpander(subword, subword)
    expander = EXPANDERS[SPECS[0]]
    with pytest.raises(TokenizerError, match=r"must be \[B, T\]"):
        expander.expand(np.zeros(3, int))
    with pytest.raises(TokenizerError, match="id 9999 is not in the byte-level vocabulary"):
        expander.expand(np.array([[9999]]))
    assert expander.expand(np.zeros((2, 0), int)).shape == (2, 0)
