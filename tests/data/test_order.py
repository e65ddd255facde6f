"""A row's key is its place in the first pass over its source, whichever pass it is read in."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest

from tests.data.support import make_config, write_rows
from tests.launch import SPEC_A
from tokenkit.data.mixing import build_order
from tokenkit.data.order import place_of, row_key
from tokenkit.data.stretches import Stretch, build_stretches_loader
from tokenkit.tokenizers import load_tokenizer

CASES = {
    "shuffled": {},
    "in order": {"shuffle": False},
    "weights": {"weights": [3.0, 1.0]},
    "bad rows": {"weights": [1.0, 1.0], "on_bad_row": "skip"},
    "streams": {"streaming": True, "shuffle_buffer": 8},
    "streams in order": {"streaming": True, "shuffle": False, "on_bad_row": "skip"},
}


@pytest.fixture
def files(tmp_path):
    """Two sources, with empty rows."""
    rows = [[{"text": f"{letter}{n}" if n % 7 else " "} for n in range(size)]
            for letter, size in (("a", 30), ("b", 11))]  # fmt: skip
    return [write_rows(tmp_path / f"{n}.jsonl", given) for n, given in enumerate(rows)]


def config_of(files, **data):
    if data.get("on_bad_row") == "skip":
        with files[0].open("a") as file:
            file.write('{"other": 1}\n{"text": 3}\n{"text": "last"}\n')
    return make_config(files, data={"train": [str(f) for f in files], **data}, job={"seed": 5})


@pytest.mark.parametrize("case", CASES)
def test_a_key_finds_its_row(files, case):
    config = config_of(files, **CASES[case])
    order, other = (build_order(config, keyed=True) for _ in range(2))
    positions = 9000  # more than a block of drawn sources
    reached = order.first_places(positions)
    held = {
        row_key(source, place): row
        for source, count in enumerate(reached)
        for place, row in enumerate(other.first_pass(source, range(count))[0])
    }
    rows, _ = order.rows(range(positions))
    assert all(held[row.key].text == row.text for row in rows)
    if not config.data.streaming:  # passes over a stream count on
        assert sum(reached) == order.pass_length == len(held)
    # A run that ends earlier needs a beginning of it.
    for end in (1, 10, 30):
        fewer = order.first_places(end)
        assert all(few <= count for few, count in zip(fewer, reached, strict=True))
        for row in order.rows(range(end))[0]:
            source, place = place_of(row.key)
            assert place < fewer[source]


def test_rows_have_no_keys_where_nobody_asks(files):
    rows, _ = build_order(config_of(files)).rows(range(50))
    assert {row.key for row in rows} == {-1}


@pytest.mark.parametrize("workers", [0, 2])
def test_stretches_hold_each_row_once_long_ones_first(tmp_path, workers):
    texts = ["word " * (1 + n * 7 % 20) + str(n) for n in range(23)]
    file = write_rows(tmp_path / "x.jsonl", [{"text": text} for text in texts])
    data = {"train": [str(file)], "num_workers": workers}
    training = {"micro_batch_size": 4, "max_teacher_length": 64}
    config = make_config([file], data=data, training=training)
    tok, order = load_tokenizer(SPEC_A), build_order(config, keyed=True)
    stretches = [Stretch(0, range(0, 10)), None, Stretch(0, range(10, 23))]
    loader = build_stretches_loader(config, tok, "", order, stretches, 0, 1)
    steps = list(islice(loader, 3))
    loader.close()
    assert [len(step.micro_batches) for step in steps] == [3, 0, 4]
    found = {}
    for step in steps:
        lengths = [n for batch in step.micro_batches for n in batch.student.mask.sum(1).tolist()]
        assert lengths == sorted(lengths, reverse=True)
        for batch in step.micro_batches:
            seq = batch.student
            assert seq.ids.shape[1] - int(seq.mask.sum(1).max()) < 8
            for key, ids, mask in zip(batch.keys, seq.ids, seq.mask, strict=True):
                assert key not in found
                found[key] = ids[mask].numpy()
    assert sorted(found) == list(range(23))
    for key, row in enumerate(order.first_pass(0, range(23))[0]):
        text = tok.encode_text(row.text)  # without BOS and EOS
        begin = found[key].tolist().index(text[0])
        assert np.array_equal(found[key][begin : begin + len(text)], text)
