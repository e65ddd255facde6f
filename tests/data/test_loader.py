"""The stream of steps: same rows under every layout, found by number, clear errors."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path

import pytest

from tests.data.support import SPEC_A, SPEC_B, equal, make_config, write_rows
from tokenkit.data import build_train_loader
from tokenkit.errors import DataError, TokenizerError
from tokenkit.tokenizers import load_tokenizer

KINDS = ("unconstrained",)
ROWS = 21  # no multiple of the batch size: passes end within batches


@pytest.fixture(scope="module")
def toks():
    return load_tokenizer(SPEC_A), load_tokenizer(SPEC_B)


@pytest.fixture
def file(tmp_path):
    rows = [{"text": f"Row {n}: " + "some words and more " * (n % 5)} for n in range(ROWS)]
    rows[4] = {"text": ""}
    rows[7] = {
        "messages": [
            {"role": "user", "content": "Seven?"},
            {"role": "assistant", "content": "Seven it is."},
        ]
    }
    return write_rows(tmp_path / "rows.jsonl", rows)


def build(config, toks, rank=0, ranks=1, **options):
    return build_train_loader(config, toks[1], toks[0], KINDS, rank, ranks, **options)


def take(loader, count):
    """The first micro-batches."""
    return list(islice((batch for step in loader for batch in step.micro_batches), count))


def sought(loader, step):
    """A loader that begins with a step."""
    loader.seek(step)
    return loader


def layout(file, workers=0, micro=8, streaming=False, **sections):
    data = {"num_workers": workers, "streaming": streaming, "shuffle_buffer": 10}
    return make_config(file, data={"train": [str(file)], **data},
                       training={"micro_batch_size": micro}, **sections)  # fmt: skip


def rows_of_steps(config, toks, ranks, steps):
    """Student ids of each step's rows in global order, unpadded."""
    micro = config.training.micro_batch_size
    parts = config.training.batch_size // (micro * ranks)
    batches = [take(build(config, toks, rank, ranks), steps * parts) for rank in range(ranks)]
    return [
        tuple(ids[mask].tolist())
        for number in range(steps * parts)
        for rank in range(ranks)
        for ids, mask in zip(
            batches[rank][number].student.ids, batches[rank][number].student.mask, strict=True
        )
    ]


@pytest.mark.parametrize("streaming", [False, True])
def test_rows_do_not_depend_on_the_layout(file, toks, streaming):
    expected = rows_of_steps(layout(file, streaming=streaming), toks, 1, 4)
    assert len(expected) == 32 and len(set(expected)) == ROWS - 1
    for workers, micro, ranks in (
        (0, 2, 1), (0, 4, 2), (0, 2, 2), (0, 2, 4), (1, 8, 1), (2, 8, 1), (2, 2, 2),
    ):  # fmt: skip
        config = layout(file, workers, micro, streaming)
        assert rows_of_steps(config, toks, ranks, 4) == expected, (workers, micro, ranks)


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("streaming", [False, True])
def test_resume_is_exact(file, toks, workers, streaming):
    config = layout(file, workers, 4, streaming)
    whole = take(build(config, toks), 14)
    for stop in (0, 3):
        first = take(build(config, toks), 2 * stop)
        again = first + take(sought(build(config, toks), stop), 14 - 2 * stop)
        assert all(map(equal, whole, again)) and len(whole) == len(again)


def test_seeking_in_the_middle(file, toks):
    loader = build(layout(file, 2, 4), toks)
    whole = take(loader, 8)
    assert all(map(equal, take(sought(loader, 2), 4), whole[4:]))
    assert all(map(equal, take(sought(loader, 0), 8), whole))


def test_the_identity_phase_reads_no_rows(file, toks):
    config = layout(file, 1, 4, hypernet={"identity_steps": 3})
    steps = list(islice(build(config, toks), 5))
    assert [len(step.micro_batches) for step in steps] == [0, 0, 0, 2, 2]
    assert steps[0].stats == {} and steps[3].stats["rows"] == 8
    plain = take(build(layout(file, 0, 4), toks), 4)
    assert all(map(equal, [batch for step in steps for batch in step.micro_batches], plain))
    assert equal(take(sought(build(config, toks), 4), 1)[0], plain[2])


@pytest.mark.parametrize("streaming", [False, True])
def test_start_at_a_step(file, toks, streaming):
    """How a run goes on under another number of ranks."""
    whole = rows_of_steps(layout(file, 0, 4, streaming), toks, 1, 5)
    config = layout(file, 1, 2, streaming)
    batches = [take(sought(build(config, toks, rank, 2), 3), 4) for rank in (0, 1)]
    rows = [
        tuple(ids[mask].tolist())
        for number in range(4)
        for rank in (0, 1)
        for ids, mask in zip(
            batches[rank][number].student.ids, batches[rank][number].student.mask, strict=True
        )
    ]
    assert rows == whole[24:40]


def test_less_data_than_a_batch_cycles(tmp_path, toks):
    file = write_rows(tmp_path / "x.jsonl", [{"text": f"row {n}"} for n in range(3)])
    rows = rows_of_steps(layout(file, 1), toks, 1, 3)
    assert all(len(set(rows[k : k + 3])) == 3 for k in range(0, 24, 3))


def test_without_teacher(file, toks):
    (batch,) = take(build_train_loader(layout(file), toks[1], None, (), 0, 1), 1)
    assert batch.teachers == {} and batch.student.chunks == {}


@pytest.mark.parametrize("ranks", [1, 2])
def test_empty_rows_are_counted_and_reported_once(file, toks, ranks, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("tokenkit"), "propagate", True)
    loaders = [build(layout(file, 0, 1), toks, rank, ranks) for rank in range(ranks)]
    batches = [batch for loader in loaders for batch in take(loader, 84 // ranks)]
    said = [record.getMessage() for record in caplog.records]
    assert sum(batch.stats["empty_rows"] for batch in batches) == 4
    assert len(said) <= 1
    if ranks == 1:
        assert said == ["data.train: 1 of the first 24 rows are empty and were skipped"]


BAD = ('{"text": "cut', r"bad\.jsonl:6: not a JSON object")
CASES = {
    "unreadable": BAD,
    "no field": ({"txt": "x"}, r"bad\.jsonl:6: neither 'text' nor 'messages'"),
    "text no string": ({"text": 6}, r"bad\.jsonl:6: 'text' is int"),
    "unknown role": (
        {"messages": [{"role": "narrator", "content": "x"}]},
        r"bad\.jsonl:6: .*unknown role 'narrator'",
    ),
}


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_bad_rows_are_one_line(tmp_path, toks, case, workers, streaming):
    if workers and streaming and case != "unreadable":
        pytest.skip("as without a worker")
    bad, says = CASES[case]
    file = write_rows(tmp_path / "bad.jsonl", [*[{"text": "fine"}] * 5, bad])
    with pytest.raises(DataError, match=rf"^{tmp_path}/{says}") as caught:
        take(build(layout(file, workers, 2, streaming), toks), 20)
    assert "\n" not in str(caught.value) and "Traceback" not in str(caught.value)


def test_good_rows_before_a_bad_one_are_delivered(tmp_path, toks):
    """A worker reads ahead; what it finds there must not come too early."""
    file = write_rows(tmp_path / "bad.jsonl", [*[{"text": f"{n}"} for n in range(43)], BAD[0]])
    config = layout(file, 2, 2)
    config.data.shuffle = config.data.check = False
    loader, seen = build(config, toks), []
    with pytest.raises(DataError, match=BAD[1].replace("6", "44")):
        for step in loader:
            seen.append(step)
    assert len(seen) == 5


def test_other_errors_for_the_user_keep_their_kind(file, toks, monkeypatch):
    def refuse(*_):
        raise TokenizerError("this text cannot be encoded")

    monkeypatch.setattr("tokenkit.data.collate.encode_rows", refuse)
    for workers in (0, 1):
        with pytest.raises(TokenizerError, match="^this text cannot be encoded$"):
            take(build(layout(file, workers), toks), 1)


SCRIPT = """
import sys
from tests.data.support import SPEC_A, make_config
from tokenkit.data import build_train_loader
from tokenkit.errors import run_main
from tokenkit.tokenizers import load_tokenizer
def main():
    tok = load_tokenizer(SPEC_A)
    tok.encode_texts(["warm up the threads"] * 64)
    config = make_config(sys.argv[1], data={"train": [sys.argv[1]], "num_workers": 2})
    for batch in build_train_loader(config, tok, None, (), 0, 1):
        pass
run_main(main)
"""


FEW_FILES = """
import resource, sys
from itertools import islice
from tests.data.support import SPEC_A, SPEC_B, make_config
from tokenkit.data import build_train_loader
from tokenkit.tokenizers import load_tokenizer
config = make_config(sys.argv[1], data={"train": [sys.argv[1]], "num_workers": 2},
                     training={"batch_size": 64, "micro_batch_size": 1})
toks = load_tokenizer(SPEC_B), load_tokenizer(SPEC_A)
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
loader = build_train_loader(config, *toks, ("unconstrained", "space"), 0, 1)
held = list(islice(loader, 3))
assert [len(step.micro_batches) for step in held] == [64, 64, 64]
loader.close()
"""


def test_steps_of_many_micro_batches_need_few_open_files(file):
    """A file descriptor for each of a step's 900 tensors would be too many."""
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", FEW_FILES, str(file)], cwd=root, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"}, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_a_process_with_workers_leaves_at_once(tmp_path):
    """Exit code 2, one line and nothing else, and no worker is left behind."""
    file = write_rows(tmp_path / "bad.jsonl", [*[{"text": "fine"}] * 5, BAD[0]])
    environment = {k: v for k, v in os.environ.items() if k != "TOKENIZERS_PARALLELISM"}
    root = str(Path(__file__).parents[2])
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(file)], cwd=root, stderr=subprocess.PIPE, text=True,
        env={**environment, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    begin, lines = None, []
    for line in process.stderr:  # ends when the workers are gone, too
        begin = begin or time.time()
        lines.append(line)
    assert process.wait() == 2
    assert len(lines) == 1 and lines[0].startswith(f"error: {file}:6: not a JSON object"), lines
    assert time.time() - begin < 3, "workers outlived the process"
