"""Bad rows: found before training, or skipped and counted."""

from __future__ import annotations

import logging

import pytest

from tests.data.support import SPEC_A, SPEC_B, make_config, write_rows
from tokenkit.data import build_train_loader, check
from tokenkit.data.mixing import build_order
from tokenkit.errors import DataError
from tokenkit.tokenizers import load_tokenizer

GOOD = [{"text": f"row {number}"} for number in range(20)]
BAD = ["{", {"text": 3}, {"messages": [{"role": "narrator", "content": "Once"}]}]
WHOLE = {"chat": {"text_mode": "direct_encode"}}


@pytest.fixture(scope="module")
def toks():
    return load_tokenizer(SPEC_A), load_tokenizer(SPEC_B)


def load(config, toks):
    return build_train_loader(config, *toks, ("unconstrained",), 0, 1)


@pytest.mark.parametrize("bad", BAD)
def test_bad_rows_are_found_before_the_first_step(tmp_path, toks, bad):
    """Also those that the template refuses, far behind what the first steps read."""
    file = write_rows(tmp_path / "x.jsonl", [*GOOD, bad])
    with pytest.raises(DataError, match=r"x\.jsonl:21: "):
        load(make_config(file, data={"shuffle": False}), toks)
    unchecked = load(make_config(file, data={"shuffle": False, "check": False}), toks)
    assert len(next(iter(unchecked)).micro_batches) == 1


def test_rows_of_a_dataset_are_looked_at_unless_streamed(tmp_path, toks):
    rows = [*GOOD, {"text": ""}, {"text": " "}]
    folder = tmp_path / "set"
    folder.mkdir()
    write_rows(folder / "train.jsonl", [*rows, {"text": None}])
    config = make_config(f"hf:{folder}", data={"shuffle": False})
    with pytest.raises(DataError, match=r"hf:.*set:23: "):
        load(config, toks)
    config.data.streaming = True
    assert next(iter(load(config, toks))).micro_batches


def test_the_look_ends_after_a_minute(tmp_path, toks, monkeypatch, caplog):
    monkeypatch.setattr(check, "CHECK_SECONDS", 0.0)
    monkeypatch.setattr(logging.getLogger("tokenkit"), "propagate", True)
    caplog.set_level("INFO", "tokenkit")
    load(make_config(write_rows(tmp_path / "x.jsonl", [*GOOD, "{"])), toks)
    assert any("1 of 21 rows checked" in record.message for record in caplog.records)


@pytest.mark.parametrize("streaming", [False, True])
def test_bad_rows_are_skipped_and_counted(tmp_path, toks, streaming):
    rows = [GOOD[0], BAD[1], *GOOD[1:4], BAD[2], *GOOD[4:10]]  # a pass is 12 rows
    if not streaming:
        rows[3] = "{"
    file = write_rows(tmp_path / "x.jsonl", rows)
    config = make_config(
        file, data={"on_bad_row": "skip", "shuffle": False, "streaming": streaming}
    )
    (batch,) = next(iter(load(config, toks))).micro_batches
    assert batch.student.ids.shape[0] == 8
    # What the template refuses is found late, and stands there as nothing.
    assert (batch.student.mask.sum(1) == 0).sum() == 1
    assert batch.stats["bad_rows"] == (2 if streaming else 3)


def test_good_rows_are_the_same_with_and_without_skipping(tmp_path):
    file = write_rows(tmp_path / "x.jsonl", GOOD)
    orders = [build_order(make_config(file, data={"on_bad_row": way})) for way in ("error", "skip")]
    rows = [order.rows(range(50)) for order in orders]
    assert rows[0] == rows[1]


def test_nothing_but_bad_rows_is_refused(tmp_path, toks):
    file = write_rows(tmp_path / "x.jsonl", [BAD[1]] * 3)
    config = make_config(file, data={"on_bad_row": "skip"})
    with pytest.raises(DataError, match=r"x\.jsonl:\d: .*all others.*bad"):
        next(iter(load(config, toks)))
