"""Every shipped TOML loads, says what it needs, and is found by its bare name."""

from __future__ import annotations

from pathlib import Path

import pytest

from tokenkit.config import load_config, validate
from tokenkit.errors import ConfigError

RECIPES = sorted((Path(__file__).parents[2] / "train_configs").glob("*.toml"))


def load(name):
    return load_config(["--job.config_file", str(name)])


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe_loads(path, monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[2])
    config = load(path)
    header = path.read_text().split("[job]")[0]
    if "quickstart" not in path.stem:  # those name folders that quickstart makes
        ranks = 1 if "one process" in header else 8
        validate(config, ranks)
    assert config.job.name == path.stem
    assert header.startswith("#") and ("Needs" in header or "seconds on a CPU" in header)


@pytest.mark.parametrize("name", ["smollm2_to_qwen2", "smollm2_to_qwen2.toml"])
def test_a_bare_name(monkeypatch, tmp_path, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "smollm2_to_qwen2").mkdir()  # a folder is no file of settings
    assert load(name).job.name == "smollm2_to_qwen2"


def test_a_file_here_comes_first(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "smollm2_to_qwen2.toml").write_text("[job]\nname = 'mine'\n")
    assert load("smollm2_to_qwen2.toml").job.name == "mine"


def test_an_unknown_name_lists_the_recipes(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as refused:
        load("smolm2_to_qwen2")
    message = str(refused.value)
    assert message.startswith("job.config_file: no such file: smolm2_to_qwen2, and no recipe")
    assert "did you mean 'smollm2_to_qwen2'?" in message and "\n" not in message
    assert all(path.stem in message for path in RECIPES)


def test_a_path_is_no_recipe(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"no such file: \./smollm2_to_qwen2\.toml$"):
        load("./smollm2_to_qwen2.toml")
