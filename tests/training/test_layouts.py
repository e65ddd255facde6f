"""A checkpoint of any layout is continued in any other: same losses, at rows no layout divides."""

from __future__ import annotations

import shutil

import pytest

from tests.launch import read_losses, train

FIRST, ALL = 3, 8
ROWS = "1003"  # no layout's ranks divide it
TP2 = ["--parallelism.tensor_parallel_degree", "2"]


def micro(size: int) -> list[str]:
    return ["--training.micro_batch_size", str(size)]


# Ranks and settings. Four ranks of two rows each hold less than one row of some tensors.
LAYOUTS = {
    "1": (1, micro(8)),
    "1, accumulation": (1, [*micro(2), "--data.num_workers", "1"]),
    "2": (2, micro(4)),
    "4": (4, micro(2)),
    "TP 2": (2, [*micro(8), *TP2]),
    "CP 2": (2, [*micro(8), "--parallelism.context_parallel_degree", "2"]),
    "TP 2 x 2": (4, [*micro(4), *TP2]),
    "HSDP 2 x 2": (4, [*micro(2), "--parallelism.data_parallel_replicate_degree", "2"]),
}
FOUR = ("1", "2", "4", "TP 2")
CASES = [(layout, then) for layout in FOUR for then in FOUR if then != layout] + [
    ("4", "1, accumulation"), ("1", "TP 2 x 2"), ("TP 2 x 2", "HSDP 2 x 2"), ("HSDP 2 x 2", "1"),
    ("TP 2", "CP 2"), ("CP 2", "1"),
]  # fmt: skip


@pytest.fixture(scope="module")
def run(base_arguments, tmp_path_factory):
    """Train in a folder, on a layout, up to a step."""

    def start(folder, layout: str, steps: int) -> list[float]:
        world, settings = LAYOUTS[layout]
        argv = [
            *base_arguments, "--student.pad_vocab_multiple", ROWS, "--checkpoint.enable", "true",
            "--checkpoint.interval", str(FIRST), "--training.steps", str(steps), *settings,
            "--lr_scheduler.decay", "constant",
            "--job.output_dir", str(folder),
        ]  # fmt: skip
        train(argv, world, folder.with_suffix(".log"))
        return read_losses(folder)

    return start


@pytest.fixture(scope="module")
def whole_run(run, tmp_path_factory):
    """Losses of one process, uninterrupted."""
    return run(tmp_path_factory.mktemp("whole") / "run", "1", ALL)


@pytest.fixture(scope="module")
def saved(run, tmp_path_factory):
    """A run's folder with the checkpoint of a layout, made once."""
    known: dict[str, object] = {}

    def folder(layout: str):
        if layout not in known:
            known[layout] = tmp_path_factory.mktemp("saved") / "run"
            run(known[layout], layout, FIRST)
        return known[layout]

    return folder


@pytest.mark.slow
@pytest.mark.parametrize(("layout", "then"), CASES)
def test_any_layout_continues_any_other(layout, then, saved, run, whole_run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(saved(layout), folder)
    losses = run(folder, then, ALL)
    assert len(losses) == ALL
    assert losses == pytest.approx(whole_run, rel=1e-5)
