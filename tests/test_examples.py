"""The examples run as they stand."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.launch import SPEC_A, SPEC_B, read_metrics, train
from tokenkit.config import load_config, save_config, validate
from tokenkit.config.components import import_custom
from tokenkit.config.short import short_toml
from tokenkit.errors import ConfigError
from tokenkit.tokenizers import load_tokenizer
from tokenkit.transfer import INITIALIZERS

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture(scope="module")
def run(base_arguments, tmp_path_factory) -> Path:
    """Output directory of one run with all of them."""
    folder = tmp_path_factory.mktemp("examples")
    files = [str(EXAMPLES / f"my_{kind}.py") for kind in ("loss", "balance", "initialiser")]
    argv = [*base_arguments, "--training.steps", "3", "--job.output_dir", str(folder)]
    argv += ["--job.custom_import", ",".join(files), "--loss.names", "sft,focal,alm_unconstrained"]
    argv += ["--focal.gamma", "0", "--loss.aggregation", "dwa", "--dwa.temperature", "0.1"]
    train([*argv, "--student.embedding_init", "by_bytes"], 1, folder / "log")
    return folder


def test_a_loss_from_a_file_of_the_users(run):
    """With γ = 0 it is cross-entropy; its section is part of the saved config."""
    metrics = read_metrics(run)
    for step in (1, 2, 3):
        assert metrics[step]["loss/focal"] == pytest.approx(metrics[step]["loss/sft"], rel=1e-4)
        accuracy = metrics[step]["sft/accuracy"]
        assert metrics[step]["focal/accuracy"] == pytest.approx(accuracy, rel=1e-6)
    assert "[focal]\ngamma = 0.0" in (run / "config.toml").read_text()


def test_a_balance_from_a_file_of_the_users(run):
    """The third step's factors follow from the losses of the first two; the loss from them."""
    names, metrics = ("sft", "focal", "alm_unconstrained"), read_metrics(run)
    losses = {step: [metrics[step][f"loss/{name}"] for name in names] for step in (1, 2, 3)}
    factors = {step: [metrics[step][f"dwa/{name}"] for name in names] for step in (1, 2, 3)}
    assert factors[1] == factors[2] == pytest.approx([1.0] * 3)
    powers = [math.exp(b / a / 0.1) for a, b in zip(losses[1], losses[2], strict=True)]
    assert factors[3] == pytest.approx([3 * p / sum(powers) for p in powers], rel=1e-4)
    assert max(factors[3]) - min(factors[3]) > 1e-3
    mean = sum(f * x for f, x in zip(factors[3], losses[3], strict=True)) / 3
    assert metrics[3]["loss"] == pytest.approx(mean, rel=1e-5)


def test_an_initialiser_from_a_file_of_the_users(run):
    """A composed row is the mean of its pieces' rows, weighted by their bytes."""
    assert "tokens by by_bytes" in (run / "log").read_text()
    import_custom([str(EXAMPLES / "my_initialiser.py")])
    source, target = load_tokenizer(SPEC_A), load_tokenizer(SPEC_B)
    matrix = torch.randn(len(source), 4)
    (made,), report = INITIALIZERS.get("by_bytes")(source, target, [matrix])
    assert made.shape == (len(target), 4) and report["averaged"] > 0
    tokens = [i for i, token in enumerate(target.tokens) if token and token not in source.ids]
    pieces = {i: source.tokenize_bytes_batch([target.tokens[i]])[0] for i in tokens}
    token = max((i for i in tokens if i not in target.special_ids), key=lambda i: len(pieces[i]))
    lengths = torch.tensor([float(len(source.tokens[piece])) for piece in pieces[token]])
    expected = (lengths[:, None] * matrix[pieces[token]]).sum(0) / lengths.sum()
    torch.testing.assert_close(made[token], expected)


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


def test_a_config_without_the_import_is_saved_without_its_section(tmp_path):
    """As another run of the same process, or the planner's probe, will read it."""
    load_config(["--job.custom_import", str(EXAMPLES / "my_loss.py"), "--focal.gamma", "1.5"])
    path = tmp_path / "config.toml"
    other = ["--job.custom_import", str(EXAMPLES / "my_balance.py")]
    for more in ([], other):
        save_config(load_config(["--training.steps", "3", *more]), path)
        assert "focal" not in path.read_text()
        assert load_config(["--job.config_file", str(path)]).training.steps == 3


def test_what_a_person_would_write_holds_a_custom_section(tmp_path):
    """As a model card shows it."""
    config = load_config(["--job.custom_import", str(EXAMPLES / "my_loss.py"), "--focal.gamma=1.5"])
    path = tmp_path / "short.toml"
    path.write_text(short_toml(config))
    assert "gamma = 1.5" in path.read_text()
    assert load_config(["--job.config_file", str(path)]) == config


def test_help_knows_custom_sections(capsys):
    with pytest.raises(SystemExit):
        load_config(["--help", "--job.custom_import", str(EXAMPLES / "my_loss.py")])
    assert "--focal.gamma  float, default 2.0" in capsys.readouterr().out


def test_files_are_saved_by_their_whole_path(monkeypatch):
    """A run is exported from anywhere."""
    monkeypatch.chdir(EXAMPLES.parent)
    config = load_config(["--job.custom_import", "examples/my_loss.py"])
    assert config.job.custom_import == [str(EXAMPLES / "my_loss.py")]


CHECK = """
import sys
from tokenkit.config import load_config
from tokenkit.errors import run_main
from tokenkit.training.run_directory import check_output_dir
run_main(lambda: check_output_dir(load_config(["--job.output_dir", sys.argv[1]])))
"""


def test_a_run_with_a_custom_section_belongs_to_another_config(tmp_path):
    """Reading its settings brings a section that those of the new run were made without."""
    (tmp_path / "checkpoints" / "step-00000001").mkdir(parents=True)
    (tmp_path / "checkpoints" / "step-00000001" / "manifest.json").touch()
    imported = ["--job.custom_import", str(EXAMPLES / "my_loss.py")]
    save_config(load_config(imported), tmp_path / "config.toml")
    done = subprocess.run(
        [sys.executable, "-c", CHECK, str(tmp_path)], capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(EXAMPLES.parent)},
    )  # fmt: skip
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, done.stderr
    assert "belongs to another run (job.custom_import was" in done.stderr


def test_a_copy_keeps_custom_sections():
    config = load_config(["--job.custom_import", str(EXAMPLES / "my_loss.py"), "--focal.gamma=1"])
    copied = config.copy()
    copied.focal.gamma = 3.0
    assert config.focal.gamma == 1.0 and copied.training == config.training


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
