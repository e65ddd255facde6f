"""Small tokenizers by name."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.tokenizers import samples
from tokenkit.tokenizers import ByteifiedTokenizer


@pytest.fixture(scope="session")
def tok(tmp_path_factory) -> Callable[[str], ByteifiedTokenizer]:
    root = tmp_path_factory.mktemp("tokenizers")
    return lambda name: samples.tokenizer(name, root)
