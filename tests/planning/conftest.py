"""Models that plans are made of."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.training.small_runs import write_folder


@pytest.fixture(scope="session")
def folder_of_models(tmp_path_factory) -> Path:
    """See :func:`tests.training.small_runs.write_folder`."""
    return write_folder(tmp_path_factory.mktemp("planned"))
