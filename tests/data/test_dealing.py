"""Rows dealt by length: every row once, like ones together, whatever the layout."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest

from tests.data.support import SPEC_A, SPEC_B, make_config, write_rows
from tokenkit.data import build_train_loader, mixing
from tokenkit.data.dealing import Slice
from tokenkit.data.mixing import build_order
from tokenkit.tokenizers import load_tokenizer

LAYOUTS = [(micro, ranks) for micro in (1, 2, 4) for ranks in (1, 2, 3, 4)]
BATCH = 48


def slices(micro, ranks):
    return [Slice(BATCH, micro, rank, ranks) for rank in range(ranks)]


@pytest.mark.parametrize(("micro", "ranks"), LAYOUTS)
def test_every_row_of_the_step_is_dealt_once(micro, ranks):
    sizes = np.random.default_rng(0).integers(1, 30, BATCH)
    for deal in (lambda one: one.by_length(3, sizes), lambda one: one.in_order(3)):
        dealt = [deal(one) for one in slices(micro, ranks)]
        assert all(len(part) == micro for parts in dealt for part in parts)
        flat = sorted(position for parts in dealt for part in parts for position in part)
        assert flat == list(range(3 * BATCH, 4 * BATCH))


@pytest.mark.parametrize(("micro", "ranks"), LAYOUTS)
def test_what_is_read_together_is_alike(micro, ranks):
    """No row of a k-th micro-batch, of any rank, is shorter than one of a later."""
    sizes = np.random.default_rng(1).lognormal(5, 1, BATCH)
    dealt = [one.by_length(0, sizes) for one in slices(micro, ranks)]
    lengths = [[[sizes[p] for p in part] for part in parts] for parts in dealt]
    for k in range(len(dealt[0]) - 1):
        assert min(min(parts[k]) for parts in lengths) >= max(
            max(parts[k + 1]) for parts in lengths
        )
    sums = [sum(max(part) for part in parts) for parts in lengths]
    assert max(sums) - min(sums) <= sizes.max() - np.median(sizes)  # no rank has all the long ones


@pytest.fixture(scope="module")
def toks():
    return load_tokenizer(SPEC_A), load_tokenizer(SPEC_B)


@pytest.fixture(params=[False, True], ids=["indexed", "streamed"])
def config(request, tmp_path):
    lengths = np.random.default_rng(2).integers(0, 12, 45)
    rows = [{"text": f"Row {n}:" + " and more" * k if k else ""} for n, k in enumerate(lengths)]
    data = {"deal": "length", "streaming": request.param, "shuffle_buffer": 10}
    return make_config(write_rows(tmp_path / "rows.jsonl", rows), data=data)


def steps_of(config, toks, micro, ranks, workers=0, first=0, count=4):
    """The rows of each step as they are read, and the share of padding."""
    config = config.copy()
    config.training.micro_batch_size, config.data.num_workers = micro, workers
    rows: list[list] = [[] for _ in range(count)]
    places = tokens = 0
    for rank in range(ranks):
        loader = build_train_loader(config, toks[1], toks[0], ("space",), rank, ranks)
        loader.seek(first)
        for number, step in enumerate(islice(loader, count)):
            for batch in step.micro_batches:
                seq = batch.student
                rows[number] += [ids[m].tolist() for ids, m in zip(seq.ids, seq.mask, strict=True)]
                places += batch.stats["student_places"]
                tokens += batch.stats["student_tokens"]
        loader.close()
    return [sorted(step) for step in rows], 1 - tokens / places


def test_a_step_has_the_same_rows_on_any_layout_and_when_resumed(config, toks):
    ordered = config.copy()
    ordered.data.deal = "order"
    expected, padding = steps_of(ordered, toks, 2, 1)
    for micro, ranks, workers in ((2, 1, 0), (1, 2, 0), (2, 4, 0), (2, 2, 2)):
        found, less = steps_of(config, toks, micro, ranks, workers)
        assert found == expected, (micro, ranks, workers)
        assert less < 0.8 * padding
    later, _ = steps_of(config, toks, 2, 2, first=2, count=2)
    assert later == expected[2:]


def test_looking_at_sizes_changes_no_row(tmp_path, monkeypatch):
    """A step may lie in two of the blocks that sources are drawn in."""
    monkeypatch.setattr(mixing, "BLOCK", 10)
    files = [
        write_rows(tmp_path / f"{name}.jsonl", [{"text": name * (n + 1)} for n in range(7)])
        for name in "ab"
    ]
    plain = make_config(files, data={"train": list(map(str, files)), "weights": [1.0, 2.0]})
    expected = [row for row, _ in build_order(plain).found(range(48))]
    order = build_order(plain)
    for begin in range(0, 48, 8):
        positions = range(begin, begin + 8)
        sizes = order.sizes(positions)
        rows = [row for row, _ in order.found(positions)]
        assert rows == expected[begin : begin + 8]
        assert sizes == [len(f'{{"text": "{row.text}"}}\n') for row in rows]
