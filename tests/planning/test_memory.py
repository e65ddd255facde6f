"""Predicted memory against what the kernel says that a process used, in real steps."""

from __future__ import annotations

import sys

import pytest

from benchmarks.memory import run_case

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="reads /proc and sets glibc's allocator"
)


@pytest.mark.parametrize(
    "case",
    [
        "full",
        "lora",
        "recompute",
        "untied",
        "bf16 moments",
        "context",
        "teacher",
    ],
)
def test_within_a_tenth(case):
    found = run_case(case, quick=True)
    assert found["measured"] > 200
    assert found["predicted"] == pytest.approx(found["measured"], rel=0.1), found
