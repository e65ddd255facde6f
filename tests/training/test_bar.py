"""The progress bar: only in a terminal, and closed before an error is shown."""

from __future__ import annotations

import io
import sys

import pytest
import torch

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
