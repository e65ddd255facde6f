"""The examples run as they stand."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.launch import read_metrics, train
from tokenkit.config import load_config, validate
from tokenkit.errors import ConfigError

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_a_loss_from_a_file_of_the_users(base_arguments, tmp_path):
    """With γ = 0 it is cross-entropy; its section is part of the saved config."""
    argv = [*base_arguments, "--training.steps", "2", "--loss.names", "sft,focal"]
    argv += ["--job.custom_import", str(EXAMPLES / "my_loss.py"), "--job.output_dir", str(tmp_path)]
    train([*argv, "--focal.gamma", "0"], 1, tmp_path / "log")
    metrics = read_metrics(tmp_path)
    for step in (1, 2):
        assert metrics[step]["loss/focal"] == pytest.approx(metrics[step]["loss/sft"], rel=1e-4)
        accuracy = metrics[step]["sft/accuracy"]
        assert metrics[step]["focal/accuracy"] == pytest.approx(accuracy, rel=1e-6)
    assert "[focal]\ngamma = 0.0" in (tmp_path / "config.toml").read_text()


def test_custom_sections_are_strict(tmp_path):
    imported = ["--job.custom_import", str(EXAMPLES / "my_loss.py")]
    assert load_config([*imported, "--focal.gamma", "1.5"]).focal.gamma == 1.5
    with pytest.raises(ConfigError, match="unknown key 'focal.gama'.*did you mean 'focal.gamma'"):
        load_config([*imported, "--focal.gama", "1"])
    with pytest.raises(ConfigError, match="focal.gamma = -1.0: expected at least 0"):
        config = load_config([*imported, "--focal.gamma", "-1"])
        config.student.model = config.student.tokenizer = "org/name"
        config.data.train = ["hf:org/name"]
        validate(config, 1)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("nowhere.py", "no such file"),
        ("no_such_module", "No module named 'no_such_module'"),
        ("broken.py", "ValueError: on purpose"),
    ],
)
def test_what_cannot_be_imported_is_one_line(tmp_path, monkeypatch, name, says):
    monkeypatch.chdir(tmp_path)
    Path("broken.py").write_text("raise ValueError('on purpose')")
    with pytest.raises(ConfigError, match=rf"^job.custom_import: cannot import '{name}'.*{says}"):
        load_config(["--job.custom_import", name])
