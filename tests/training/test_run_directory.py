"""A run's folder works from anywhere, and knows its run by where paths lead."""

from __future__ import annotations

import shutil

import pytest
from transformers import AutoModelForCausalLM

from tests.launch import TOKENIZERS, read_losses, train
from tokenkit.config import Config, config_from_dict, save_config
from tokenkit.errors import ConfigError
from tokenkit.training.run_directory import check_output_dir


def saved_run(output, config: Config) -> None:
    """A run's folder, as far as it is looked at: settings and one checkpoint."""
    save_config(config, output / "config.toml")
    (output / "checkpoints" / "step-00000002").mkdir(parents=True)
    (output / "checkpoints" / "step-00000002" / "manifest.json").write_text("{}")


@pytest.fixture
def places(tmp_path):
    """Two folders with a model each, and one to start in."""
    for name in ("one/model", "two/model", "two/deep"):
        (tmp_path / name).mkdir(parents=True)
    return tmp_path


def settings(places, model: str) -> Config:
    return config_from_dict(
        {"job": {"output_dir": str(places / "run")}, "student": {"model": model}}
    )


@pytest.mark.parametrize(
    ("saved", "here", "given", "good"),
    [
        ("{}/two/model", "two/deep", "../model", True),
        ("{}/two/model", "two", "model", True),
        ("{}/two/model", "one", "model", False),
        ("model", "two", "model", True),  # as runs were saved before
        ("model", "two", "{}/two/model", True),
        ("model", "two", "{}/one/model", False),
        ("gone/model", "two", "gone/model", True),
        ("org/model", "two", "org/model", True),
        ("org/model", "two", "org/other", False),
    ],
)
def test_the_same_place_is_the_same_run(places, monkeypatch, saved, here, given, good):
    saved_run(places / "run", settings(places, saved.format(places)))
    monkeypatch.chdir(places / here)
    config = settings(places, given.format(places))
    if good:
        check_output_dir(config)
    else:
        with pytest.raises(ConfigError, match=r"belongs to another run \(student\.model was"):
            check_output_dir(config)


def test_a_run_of_relative_paths_works_from_elsewhere(
    script, base_arguments, tiny_llama, texts_file, tmp_path, monkeypatch
):
    home, away = tmp_path / "home", tmp_path / "away"
    away.mkdir()
    shutil.copytree(tiny_llama, home / "model")
    for name in ("bpe_a", "bpe_b"):
        shutil.copytree(TOKENIZERS / name, home / name)
    shutil.copy(texts_file, home / "texts.jsonl")

    def arguments(place: str, steps: int) -> list[str]:
        return [
            *base_arguments, "--student.model", f"{place}model",
            "--student.tokenizer", f"{place}bpe_a:source=Llama3",
            "--student.target_tokenizer", f"{place}bpe_b:source=Qwen2:target=Llama3",
            "--data.train", f"{place}texts.jsonl", "--job.output_dir", f"{place}run",
            "--teacher.cache", f"{place}cache",
            "--training.steps", str(steps), "--checkpoint.enable", "true",
        ]  # fmt: skip

    program = "tokenkit.cli.cache_teacher"
    train(["--output", "cache", *arguments("", 9)], 1, tmp_path / "log", program=program, cwd=home)
    train(arguments("", 2), 1, tmp_path / "log", cwd=home)
    assert f'"{home}/texts.jsonl"' in (home / "run" / "config.toml").read_text()
    monkeypatch.chdir(away)
    script("export", "--run", "../home/run", "--output", "exported")
    AutoModelForCausalLM.from_pretrained("exported")

    train(arguments("../home/", 3), 1, tmp_path / "log", cwd=away)
    config = str(home / "run" / "config.toml")
    train(["--job.config_file", config, "--training.steps", "4"], 1, tmp_path / "log", cwd=away)

    # All of it has another place, then the run another name.
    moved = home.rename(tmp_path / "moved")
    train(arguments("", 5), 1, tmp_path / "log", cwd=moved)
    script("export", "--run", "../moved/run", "--output", "exported again")
    kept = (moved / "run").rename(moved / "kept")
    config = str(kept / "config.toml")
    train(["--job.config_file", config, "--training.steps", "6"], 1, tmp_path / "log", cwd=away)
    assert (tmp_path / "log").read_text().count("resumed from") == 4
    assert len(read_losses(kept)) == 6
    assert not (moved / "run").exists()
