"""Every shipped TOML loads, and says what it needs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tokenkit.config import load_config, validate

RECIPES = sorted((Path(__file__).parents[2] / "train_configs").glob("*.toml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe_loads(path, monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[2])
    config = load_config(["--job.config_file", str(path)])
    header = path.read_text().split("[job]")[0]
    if "quickstart" not in path.stem:  # those name folders that quickstart makes
        ranks = 1 if "one process" in header else 8
        validate(config, ranks)
    assert config.job.name == path.stem
    assert header.startswith("#") and ("Needs" in header or "seconds on a CPU" in header)
