"""The progress bar: only in a terminal, and closed before an error is shown."""

from __future__ import annotations

import io
import re
import sys

import pytest
import torch

from tokenkit import log
from tokenkit.config import Config
from tokenkit.models.flops import StepFlops
from tokenkit.training.metrics import MetricsLogger


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def logger(parallel, tmp_path):
    config = Config()
    config.metrics.tensorboard = False
    return MetricsLogger(config, tmp_path, 0, torch.device("cpu"), StepFlops(None, None, None))


def test_an_error_has_a_line_of_its_own(logger, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with pytest.raises(ValueError), logger:
        raise ValueError
    assert "training:" in terminal.getvalue() and terminal.getvalue().endswith("\n")


def test_no_bar_in_a_file(logger, monkeypatch):
    file = io.StringIO()
    monkeypatch.setattr(sys, "stderr", file)
    with logger:
        pass
    assert file.getvalue() == ""


def test_the_bar_makes_room_for_a_warning(logger, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    kept = list(log.logger.handlers), log.logger.level, log.logger.propagate
    log.init_logger()
    try:
        with logger:
            logger.bar.refresh()
            log.logger.warning("rows are cut")
    finally:
        log.logger.handlers[:], log.logger.level, log.logger.propagate = kept
    line = next(line for line in terminal.getvalue().split("\n") if "rows are cut" in line)
    before = line.rpartition("\r")
    assert before[1] and not before[0].rpartition("\r")[2].strip()  # blanks over the bar
    assert re.fullmatch(r"\d\d:\d\d:\d\d rows are cut", before[2])
