"""Golden data computed by the JAX reference, driven by its manifests.

``TOKENKIT_GOLDEN=folder`` runs further cases of the same schema; ``TOKENKIT_TOKENIZERS=folder``
(real tokenizers, one folder each) enables the cases whose id begins with ``real-``.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.golden_runners import RUNNERS

ROOT = Path(os.environ.get("TOKENKIT_GOLDEN") or Path(__file__).parent / "golden")


def golden_cases() -> list:
    params = []
    for manifest in sorted(ROOT.glob("*/manifest.json")):
        for case in json.loads(manifest.read_text())["cases"]:
            params.append(pytest.param(manifest.parent, case, id=case["id"]))
    return params


@pytest.mark.golden
@pytest.mark.parametrize(("folder", "case"), golden_cases())
def test_golden(folder: Path, case: dict) -> None:
    if case["function"] not in RUNNERS:
        pytest.skip(f"function '{case['function']}' is not supported yet")
    if case["id"].startswith("real-") and "TOKENKIT_TOKENIZERS" not in os.environ:
        pytest.skip("needs real tokenizers: set TOKENKIT_TOKENIZERS")
    RUNNERS[case["function"]](folder, case)
