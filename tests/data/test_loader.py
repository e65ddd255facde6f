"""The stream of micro-batches: one global order, exact resume."""

from __future__ import annotations

import json
from itertools import islice

import numpy as np
import pytest
import torch

from tests.tokenizers.specs import tokenizer
from tokenkit.config import config_from_dict
from tokenkit.data import build_train_loader, load_validation_texts
from tokenkit.data.mixing import IndexedOrder, build_order
from tokenkit.data.sources import Rows
from tokenkit.errors import DataError

TEACHER, STUDENT = "bpe_a:source=Llama3", "bpe_b:source=Qwen2:target=Llama3"


@pytest.fixture
def files(tmp_path):
    for name, count in (("a", 37), ("b", 11)):
        rows = [json.dumps({"text": f"{name}{i} " + "word " * (i % 9)}) for i in range(count)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(rows) + "\n")
    return [str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl")]


def make_config(files, micro=8, **data):
    return config_from_dict(
        {
            "data": {"train": files, **data},
            "training": {
                "batch_size": 8, "micro_batch_size": micro,
                "max_student_length": 32, "max_teacher_length": 32,
            },
        }
    )  # fmt: skip


def loader(config, rank=0, size=1, **options):
    kinds = ("unconstrained",)
    return build_train_loader(
        config, tokenizer(STUDENT), tokenizer(TEACHER), kinds, rank, size, **options
    )


def texts_of(batches):
    tok = tokenizer(STUDENT)
    return [
        tok.decode(ids[mask].tolist())
        for batch in batches
        for ids, mask in zip(batch.student_ids, batch.student_mask, strict=True)
    ]


def steps(config, size=1, count=6, **options):
    """Sorted texts of each optimizer step, all ranks together."""
    accumulation = 8 // (config.training.micro_batch_size * size)
    ranks = [
        list(islice(loader(config, rank, size, **options), count * accumulation))
        for rank in range(size)
    ]
    return [
        sorted(t for r in ranks for t in texts_of(r[k * accumulation : (k + 1) * accumulation]))
        for k in range(count)
    ]


VARIANTS = [{}, {"weights": [0.3, 0.7]}, {"shuffle": False}]


@pytest.mark.parametrize("data", VARIANTS)
@pytest.mark.parametrize(("size", "micro"), [(1, 4), (1, 1), (2, 4), (2, 2), (4, 2), (4, 1)])
def test_steps_do_not_depend_on_the_layout(files, data, size, micro):
    assert steps(make_config(files, micro, **data), size) == steps(make_config(files, 8, **data))


@pytest.mark.parametrize("workers", [1, 2])
def test_order_does_not_depend_on_workers(files, workers):
    expected = texts_of(islice(loader(make_config(files, 4)), 7))
    assert texts_of(islice(loader(make_config(files, 4, num_workers=workers)), 7)) == expected


@pytest.mark.parametrize("data", [*VARIANTS, {"num_workers": 1}, {"num_workers": 2}])
def test_resume_in_the_middle(files, data):
    config = make_config(files, 4, **data)
    whole = list(islice(loader(config), 16))
    first = loader(config)
    list(islice(iterator := iter(first), 7))
    state = first.state_dict()
    del iterator
    second = loader(config)
    second.load_state_dict(state)
    for ours, expected in zip(islice(second, 9), whole[7:], strict=True):
        assert torch.equal(ours.student_ids, expected.student_ids)
        assert torch.equal(
            ours.teacher_chunks["unconstrained"], expected.teacher_chunks["unconstrained"]
        )


def test_start_step_seeks(files):
    assert steps(make_config(files, 2), 2, 3, start_step=3) == steps(make_config(files))[3:]


def test_epochs_cover_all_rows_in_new_orders(files):
    order = build_order(make_config(files))
    epochs = [[row["text"] for row, _ in order.rows(range(k * 48, (k + 1) * 48))] for k in range(3)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == sorted(epochs[2])
    assert len(set(epochs[0])) == 48
    assert epochs[0] != epochs[1] != epochs[2]


def test_mixing_proportions_and_seeking():
    sources = [Rows("a", [("a", i) for i in range(50)]), Rows("b", [("b", i) for i in range(70)])]
    order = IndexedOrder(sources, [0.25, 0.75], seed=3, shuffle=True)
    rows = [row for row, _ in order.rows(range(10000))]
    assert np.mean([name == "b" for name, _ in rows]) == pytest.approx(0.75, abs=0.02)
    fresh = IndexedOrder(sources, [0.25, 0.75], seed=3, shuffle=True)
    assert [row for row, _ in fresh.rows(range(9000, 9010))] == rows[9000:9010]
    of_a = [i for name, i in rows if name == "a"]
    assert sorted(of_a[:50]) == list(range(50))


def test_streaming(files):
    config = make_config(files, 4, streaming=True, shuffle_buffer=16)
    whole = steps(config)
    assert whole == steps(config, 2)
    assert whole[2:5] == steps(config, 1, 3, start_step=2)
    assert len({text for step in whole for text in step}) > 24


def test_batches_are_padded_and_aligned(files):
    batch = next(iter(loader(make_config(files))))
    assert batch.student_ids.shape[1] % 8 == 0 and batch.student_ids.dtype == torch.int64
    assert (batch.student_ids[~batch.student_mask] == tokenizer(STUDENT).pad_id).all()
    assert not batch.student_loss_mask[~batch.student_mask].any()
    assert (batch.teacher_chunks["unconstrained"][batch.teacher_mask] >= 0).all()
    assert batch.stats["teacher_aligned"] == batch.stats["teacher_tokens"]


def test_long_and_empty_rows(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "' + "long " * 200 + '"}\n{"text": ""}\n')
    batch = next(iter(loader(make_config([str(path)], 8))))
    assert batch.student_ids.shape[1] == 32
    assert batch.stats["full_rows"] == 4 and batch.stats["empty_rows"] == 4
    assert (batch.student_mask.sum(1) == 0).sum() == 4


def test_without_teacher(files):
    made = build_train_loader(make_config(files), tokenizer(STUDENT), None, (), 0, 1)
    assert next(iter(made)).teacher_ids is None


@pytest.mark.parametrize("workers", [0, 1])
def test_bad_row_stops_with_its_place(tmp_path, workers):
    path = tmp_path / "bad.jsonl"
    path.write_text('{"text": "fine"}\n{"text": 5}\n')
    config = make_config([str(path)], num_workers=workers)
    with pytest.raises(DataError, match=r"bad\.jsonl:2: 'text' is int, not a string$"):
        next(iter(loader(config)))


def test_validation_texts(files):
    config = make_config(files, validation=files)
    config.eval.max_documents = 40
    texts = load_validation_texts(config)
    assert len(texts) == 40 and texts[0].startswith("a0") and texts[-1].startswith("b2")
