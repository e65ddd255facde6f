"""What takes minutes is said after its first part, what takes seconds is not."""

from __future__ import annotations

import logging

import pytest

from tokenkit.transfer import pace


@pytest.mark.parametrize(("seconds", "said"), [(0.1, []), (2.0, ["work: about 3 minutes"])])
def test_the_rest_is_estimated_by_the_first_part(monkeypatch, caplog, seconds, said):
    clock = [0.0]
    monkeypatch.setattr(pace.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(pace.logger, "propagate", True)
    with caplog.at_level(logging.INFO, logger="tokenkit"):
        done = []
        for part in pace.paced(range(100), "work"):
            clock[0] += seconds
            done.append(part)
    assert done == list(range(100))
    assert [record.message for record in caplog.records] == said
