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

PAIRS = [("bpe_a:source=Llama3", 16), ("spm:source=Gemma2", 16), ("bpe_a:source=Llama3", 3)]
EXPANDERS = {
    pair: InputExpander(tokenizer(f"{pair[0]}:conversion=byte"), tokenizer(pair[0]), pair[1],
                        long_tokens=False)
    for pair in PAIRS
}  # fmt: skip


def brute_force(byte, subword, ids: list[int], longest: int) -> list[int]:
    """The longest subword whose bytes are the last ones, for every position of one row."""
    expanded = []
    for end in range(1, len(ids) + 1):
        own = byte.tokens[ids[end - 1]]
        found = subword.ids.get(own)
        if found is None or ids[end - 1] not in byte.special_ids:
            for begin in range(end - 1, max(end - longest, 0) - 1, -1):
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


@pytest.mark.parametrize("pair", PAIRS, ids=str)
@given(text=TEXT)
@settings(max_examples=30, deadline=None)
def test_equals_brute_force(pair, text: str) -> None:
    byte, subword = tokenizer(f"{pair[0]}:conversion=byte"), tokenizer(pair[0])
    ids = byte.encode("<|<bos>|>def return user" + text + "<|<eos>|> the").tolist()
    found = EXPANDERS[pair].expand(np.array([ids]))
    assert found.dtype == np.int32
    assert found[0].tolist() == brute_force(byte, subword, ids, pair[1])


@pytest.mark.parametrize("pair", PAIRS, ids=str)
def test_decoding_step_by_step_equals_whole_rows(pair) -> None:
    byte, expander = tokenizer(f"{pair[0]}:conversion=byte"), EXPANDERS[pair]
    texts = ["<|<bos>|>    return the number of items é日", "<|<bos>|>import numpy as np\n\n\nx ="]
    rows = [byte.encode(text) for text in texts]
    length = min(map(len, rows))
    ids = np.stack([row[:length] for row in rows])
    whole = expander.expand(ids)
    for end in range(1, length + 1):
        context = ids[:, max(0, end - pair[1]) : end]
        assert expander.expand_last(context).tolist() == whole[:, end - 1].tolist()


def test_padding_does_not_matter() -> None:
    pair = PAIRS[0]
    byte, subword, expander = tokenizer(f"{pair[0]}:conversion=byte"), tokenizer(pair[0]), None
    expander = pickle.loads(pickle.dumps(EXPANDERS[pair]))  # data workers pickle it
    row = byte.encode("return self.items")
    plain = expander.expand(row[None])[0]
    for left, right in ((3, 0), (0, 4), (5, 2)):
        ids = np.full((1, left + len(row) + right), 7)
        mask = np.zeros(ids.shape, bool)
        ids[0, left : left + len(row)], mask[0, left : left + len(row)] = row, True
        found = expander.expand(ids, mask)
        assert found[0, left : left + len(row)].tolist() == plain.tolist()
        assert (found[~mask] == subword.pad_id).all()


def test_special_tokens_are_themselves() -> None:
    byte, subword = tokenizer("bpe_a:source=Llama3:conversion=byte"), tokenizer(PAIRS[0][0])
    ids = byte.encode(messages_to_markers([{"role": "user", "content": "x"}]))
    found = EXPANDERS[PAIRS[0]].expand(ids[None])[0]
    for i, j in zip(ids.tolist(), found.tolist(), strict=True):
        if i in byte.special_ids:
            assert subword.tokens[j] == byte.tokens[i]


def test_bad_input_is_refused() -> None:
    subword = tokenizer("bpe_a:source=Llama3")
    byte = tokenizer("bpe_a:source=Llama3:conversion=byte")
    with pytest.raises(TokenizerError, match="not byte-level; add ':conversion=byte'"):
        InputExpander(subword, subword)
    with pytest.raises(TokenizerError, match="max_length of an expansion is 0"):
        InputExpander(byte, subword, 0)
    expander = EXPANDERS[PAIRS[0]]
    with pytest.raises(TokenizerError, match=r"must be \[B, T\]"):
        expander.expand(np.zeros(3, int))
    with pytest.raises(TokenizerError, match="id 9999 is not in the byte-level vocabulary"):
        expander.expand(np.array([[9999]]))
    with pytest.raises(TokenizerError, match="empty rows"):
        expander.expand_last(np.zeros((2, 0), int))
    assert expander.expand(np.zeros((2, 0), int)).shape == (2, 0)
