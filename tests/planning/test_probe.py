"""Real steps before a plan, and the plan before real steps."""

from __future__ import annotations

import pytest

from tests.launch import train
from tests.training.small_runs import arguments, read_config
from tokenkit.errors import ConfigError
from tokenkit.planning.probe import probe_config, run_probe


@pytest.mark.slow
def test_probe(folder_of_models):
    config = read_config(folder_of_models, "--training.batch_size 4 --training.micro_batch_size 2")
    found = run_probe(config, 1)
    assert found.tokens_per_second > 0 and found.memory_gib > 0.1 and found.efficiency is None


def test_what_fails_is_said(folder_of_models):
    config = read_config(folder_of_models, "")
    config.data.train = ["nowhere.jsonl"]
    with pytest.raises(ConfigError, match=r"--probe-steps 1: error: data\.train.*nowhere\.jsonl"):
        run_probe(config, 1)


def test_one_rank_of_many(folder_of_models, tmp_path):
    config = read_config(folder_of_models, "--training.batch_size 512")
    config.parallelism.tensor_parallel_degree = 8
    made = probe_config(config, tmp_path, 3)
    assert (made.training.batch_size, made.training.micro_batch_size) == (16, 8)
    assert made.parallelism.tensor_parallel_degree == 1 and not made.checkpoint.enable
    assert config.training.batch_size == 512


def test_dry_run(folder_of_models, tmp_path):
    log = tmp_path / "log"
    output = tmp_path / "run"
    argv = [
        *arguments(folder_of_models, "--training.micro_batch_size 4"),
        "--dry-run",
        "--job.output_dir",
        str(output),
    ]
    train(argv, 2, log)
    text = log.read_text()
    assert text.count("memory a rank") == 1 and "on 2 x cpu" in text
    assert not output.exists()
