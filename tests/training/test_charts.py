"""Charts: their order, the run's name, settings to compare; a stand-in for wandb."""

from __future__ import annotations

import json
import sys

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2

from tokenkit.config import Config, save_config
from tokenkit.config.validate_installed import check_installed
from tokenkit.training.charts import chart_of, open_boards

WANDB = """
import json, pathlib
class Run:
    def __init__(self, options):
        self.file = pathlib.Path(options["dir"], "said.jsonl")
        self.say("init", options)
    def say(self, *what):
        with self.file.open("a") as file:
            file.write(json.dumps(what) + "\\n")
    def log(self, values, step):
        self.say("log", step, values)
    def finish(self):
        self.say("finish")
def init(**options):
    return Run(options)
"""


@pytest.fixture
def config(tmp_path):
    config = Config()
    config.job.name, config.job.output_dir = "my run/1", str(tmp_path)
    config.optimizer.lr, config.eval.interval = 3e-4, 5
    save_config(config, tmp_path / "config.toml")
    return config


def test_order_of_charts():
    names = [
        "mfu", "alignment/student_share", "loss", "lr", "loss/sft", "validation/bits_per_byte",
        "gap_closed/validation/bits_per_byte", "tokens_per_second", "padding/student",
        "compile/graphs", "my_loss/own",
    ]  # fmt: skip
    assert sorted(map(chart_of, names)) == [
        "1-train/loss", "1-train/loss/sft", "1-train/update/lr",
        "2-validation/bits_per_byte", "2-validation/gap_closed/bits_per_byte",
        "3-alignment/padding/student", "3-alignment/student_share",
        "4-speed/compile/graphs", "4-speed/mfu", "4-speed/tokens_per_second",
        "5-details/my_loss/own",
    ]  # fmt: skip


def test_tensorboard(config, tmp_path):
    (board,) = open_boards(config, tmp_path, 0)
    board.scalars(1, {"loss": 2.0, "validation/bits_per_byte": 1.25})
    board.close()
    folders = {path.parent for path in tmp_path.rglob("events.out.*")}
    assert folders == {tmp_path / "tensorboard" / "my_run_1"}  # HPARAMS make no run of their own
    read = EventAccumulator(str(folders.pop())).Reload()
    assert read.Tags()["scalars"] == ["1-train/loss", "2-validation/bits_per_byte"]
    assert read.Scalars("2-validation/bits_per_byte")[0].value == 1.25
    found = read.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    settings = plugin_data_pb2.HParamsPluginData.FromString(found).session_start_info.hparams
    assert settings["optimizer.lr"].number_value == 3e-4
    assert settings["loss.names"].string_value == "sft"
    assert "job.name" not in settings and "optimizer.beta1" not in settings


def test_wandb(config, tmp_path, monkeypatch):
    packages = tmp_path / "packages"
    packages.mkdir()
    (packages / "wandb.py").write_text(WANDB)
    monkeypatch.syspath_prepend(str(packages))
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    config.metrics.tensorboard, config.metrics.wandb = False, "transfers"
    for step in (1, 2):  # begun, and gone on with
        (board,) = open_boards(config, tmp_path, step)
        board.scalars(step, {"loss": 2.0})
        board.close()
    said = [json.loads(line) for line in (tmp_path / "said.jsonl").read_text().splitlines()]
    assert [what for what, *_ in said] == ["init", "log", "finish"] * 2
    first, second = said[0][1], said[3][1]
    assert (first["project"], first["name"]) == ("transfers", "my run/1")
    assert first["config"]["optimizer"]["lr"] == 3e-4
    assert first["id"] == second["id"] and second["resume"] == "allow"
    assert said[1][1:] == [1, {"1-train/loss": 2.0}]


def test_wandb_is_missing(config, monkeypatch):
    config.metrics.wandb = "transfers"
    monkeypatch.setattr("tokenkit.config.validate_installed.find_spec", lambda name: None)
    (said,) = check_installed(config)
    assert said.startswith('metrics.wandb = "transfers": ') and "pip install wandb" in said
