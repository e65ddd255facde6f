"""Figures of speed: what counts as training, and what a card can do."""

from __future__ import annotations

import time

import pytest

from tokenkit.cards import CARDS, card_called, card_named
from tokenkit.errors import ConfigError
from tokenkit.models.flops import ModelSize, StepFlops, StepKind
from tokenkit.training.throughput import Clock, speed


@pytest.mark.parametrize(
    ("driver", "name"),
    [
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H100 PCIe", "h100-pcie"),
        ("NVIDIA H100 NVL", "h100-nvl"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("NVIDIA A100-PCIE-40GB", "a100-40gb"),
        ("NVIDIA GeForce RTX 4090", "rtx4090"),
        ("AMD Instinct MI300X", "mi300x"),
    ],
)
def test_names_of_drivers(driver, name):
    assert card_called(driver) is CARDS[name]


def test_unknown_cards():
    assert card_called("Tesla K80") is None
    with pytest.raises(ConfigError, match=r"--device 'h20o'.*did you mean 'h200'.*cpu"):
        card_named("h20o")


def test_time_apart_is_not_training():
    clock = Clock()
    with clock.spent_on("apart"):
        time.sleep(0.05)
    with clock.spent_on("data"):
        time.sleep(0.02)
    seconds, data = clock.read()
    assert 0.02 <= data <= seconds < 0.05
    assert clock.read()[1] == 0.0


def test_speed_by_hand():
    """100 weights, one layer without attention, one row of 10 and 20 tokens in a second."""
    student = ModelSize(100, 0, (None,), 0, 0, False)
    flops = StepFlops(student, student, StepKind(recomputed=1.0))
    counts = {"rows": 1.0, "student_tokens": 10.0, "teacher_tokens": 20.0}
    found = speed(flops, counts, 2.0, 0.5, 2, 1000.0)
    assert found["tokens_per_second"] == 5 and found["teacher_tokens_per_second"] == 10
    assert found["data_wait"] == 0.25
    # Teacher 2, frozen student 4; recomputed: 6.
    assert found["mfu"] == pytest.approx((200 * 20 + 400 * 10) / 4000)
    assert found["hfu"] == pytest.approx((200 * 20 + 600 * 10) / 4000)
    assert "mfu" not in speed(flops, counts, 2.0, 0.5, 2, None)
