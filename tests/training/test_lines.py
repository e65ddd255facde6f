"""Lines about steps and validations."""

from __future__ import annotations

import pytest

from tokenkit.training import lines
from tokenkit.training.lines import Lines, TimeLeft, in_words

STEP = {
    "loss": 1.5, "loss/sft": 3.25, "grad_norm": 0.5, "lr": 1e-3, "tokens_per_second": 12345.6,
    "memory_gib": 2.0, "data_wait": 0.01,
}  # fmt: skip


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "0 s"), (44.6, "45 s"), (599, "599 s"), (601, "10 min"), (3599.7, "1 h 00 min"),
     (7500, "2 h 05 min"), (100 * 3600, "4 d 4 h")],
)  # fmt: skip
def test_durations(seconds, words):
    assert in_words(seconds) == words


def test_time_left(monkeypatch):
    now = iter([100.0, 110.0, 150.0, 160.0])
    monkeypatch.setattr(lines.time, "perf_counter", lambda: next(now))
    left = TimeLeft(20)
    assert left.seconds() is None
    left.note(1)
    assert left.seconds() is None  # one moment has no speed
    left.note(6)
    assert left.seconds() == pytest.approx(14 * 10 / 5)
    left.note(11)  # slower
    assert left.seconds() == pytest.approx(9 * 50 / 10)
    left.note(20)
    assert left.seconds() is None


def test_a_step():
    line = Lines(color=False).step(7, STEP, left=7500)
    assert line.startswith("step     7  loss 1.5000 (sft 3.2500)  grad 0.500  lr 1.00e-03  12,346")
    assert line.endswith("2.00 GiB  2 h 05 min left") and "waited" not in line
    waiting = Lines(False).step(7, {**STEP, "data_wait": 0.5, "mfu": 0.4, "skipped_steps": 2}, None)
    assert waiting.endswith("skipped 2  mfu 40.0%  waited for data 50%")


def test_a_validation():
    start = {"validation/bits_per_byte": 4.0, "teacher/validation/bits_per_byte": 1.0}
    assert Lines(False).evaluation(0, start) == (
        "step     0  bits per byte 4.0000 (teacher 1.0000)"
    )
    later = {"validation/bits_per_byte": 2.5, "gap_closed/validation/bits_per_byte": 0.5,
             "eval/arc/acc": 0.25}  # fmt: skip
    assert Lines(False).evaluation(9, later) == (
        "step     9  bits per byte 2.5000 (gap closed 50.0%)  arc/acc 0.2500"
    )


def test_colour_only_in_a_terminal(monkeypatch):
    assert "\033" not in Lines(color=True).step(1, STEP, None)  # pytest catches stderr
    monkeypatch.setattr(lines.sys.stderr, "isatty", lambda: True)
    assert "\033" in Lines(color=True).step(1, STEP, None)
    assert "\033" not in Lines(color=False).step(1, STEP, None)
