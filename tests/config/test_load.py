from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tokenkit.config import (
    Config,
    config_from_dict,
    config_tables,
    load_config,
    save_config,
    settle,
)
from tokenkit.config.keys import all_keys, section_names
from tokenkit.errors import ConfigError


def write(folder: Path, text: str | bytes) -> str:
    path = folder / "run.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def test_defaults_without_arguments():
    assert load_config([]) == Config()
    assert Config().training.steps == 100
    assert Config().loss.names == ["sft"]


def test_default_lists_are_not_shared():
    Config().loss.names.append("other")
    assert Config().loss.names == ["sft"]


def test_file_overrides_defaults_and_command_line_overrides_file(tmp_path):
    path = write(tmp_path, "[training]\nsteps = 7\nbatch_size = 4\n[optimizer]\nlr = 1\n")
    config = load_config(["--training.steps", "9", "--job.config_file", path])
    assert config.training.steps == 9
    assert config.training.batch_size == 4
    assert config.training.dtype == "float32"
    assert config.optimizer.lr == 1.0 and type(config.optimizer.lr) is float
    assert config.job.config_file == path


@pytest.mark.parametrize(
    ("argv", "key", "expected"),
    [
        (["--training.steps", "10"], "training.steps", 10),
        (["--training.steps=10"], "training.steps", 10),
        (["--training.steps=1", "--training.steps", "2"], "training.steps", 2),
        (["--checkpoint.load_step", "-1"], "checkpoint.load_step", -1),
        (["--optimizer.lr", "3e-4"], "optimizer.lr", 3e-4),
        (["--optimizer.lr", "1"], "optimizer.lr", 1.0),
        (["--compile.enable"], "compile.enable", True),
        (["--compile.enable", "--training.steps", "3"], "compile.enable", True),
        (["--compile.enable", "true"], "compile.enable", True),
        (["--checkpoint.enable", "false"], "checkpoint.enable", False),
        (["--checkpoint.enable=false"], "checkpoint.enable", False),
        (["--loss.names", "sft,alm_space"], "loss.names", ["sft", "alm_space"]),
        (["--loss.names", '["sft", "alm_space"]'], "loss.names", ["sft", "alm_space"]),
        (["--loss.names", ""], "loss.names", []),
        (["--loss.weights", "1,0.5"], "loss.weights", [1.0, 0.5]),
        (["--loss.weights", "[1, 0.5]"], "loss.weights", [1.0, 0.5]),
        (
            ["--optimizer.lr_scale_patterns", r"['a{1,2}']"],
            "optimizer.lr_scale_patterns",
            ["a{1,2}"],
        ),
        (["--student.target_tokenizer", ""], "student.target_tokenizer", ""),
        (["--job.name=--odd"], "job.name", "--odd"),
        (["--job.name", "a=b"], "job.name", "a=b"),
        (["--student.tokenizer", "m:source=Llama3"], "student.tokenizer", "m:source=Llama3"),
    ],
)
def test_override(argv, key, expected):
    section, name = key.split(".")
    value = getattr(getattr(load_config(argv), section), name)
    assert value == expected and type(value) is type(expected)


@pytest.mark.parametrize(
    ("argv", "parts"),
    [
        (["--training.stepz", "5"], ["training.stepz", '"5"', "'training.steps'"]),
        (["--training.lr", "1"], ["training.lr", "did you mean 'optimizer.lr'"]),
        (["--training.warmup_step", "1"], ["did you mean 'lr_scheduler.warmup_steps'"]),
        (["--trainin.steps", "5"], ["unknown section 'trainin'", "did you mean 'training'"]),
        (["--steps", "5"], ["'--steps'", "--section.key", "did you mean 'training.steps'"]),
        (["training.steps", "5"], ["'training.steps'", "--section.key"]),
        (["-training.steps", "5"], ["'-training.steps'", "did you mean 'training.steps'"]),
        (["run.toml"], ["did you mean --job.config_file run.toml"]),
        (["--training.steps", "5", "6"], ["'6'", "--section.key"]),
        (["--training.steps"], ["--training.steps", "no value", "an integer"]),
        (["--job.name", "--training.steps", "5"], ["--job.name", "no value"]),
        (["--training.steps", "ten"], ["training.steps", '"ten"', "an integer"]),
        (["--training.steps", "1.5"], ["training.steps", "1.5", "an integer"]),
        (["--training.steps="], ["training.steps", "an integer"]),
        (["--training.steps", "true"], ["training.steps", "an integer"]),
        (["--compile.enable", "maybe"], ["compile.enable", '"maybe"', "true or false"]),
        (["--compile.enable", "1"], ["compile.enable", "true or false"]),
        (["--optimizer.lr", "fast"], ["optimizer.lr", '"fast"', "a number"]),
        (["--loss.weights", "1,x"], ["loss.weights", "1,x", "a list of numbers"]),
        (["--loss.names", "[sft]"], ["loss.names", "[sft]", "a list of strings"]),
        (["--loss.names", "[1]"], ["loss.names", "a list of strings"]),
        (["--job.name", "\udcff"], ["job.name", "not valid UTF-8"]),
        (
            ["--job.config_file", "no/such.toml"],
            ["job.config_file", "no such file: no/such.toml"],
        ),
        (["--job.config_file", "."], ["job.config_file", "is a folder"]),
        (["--job.config_file"], ["--job.config_file", "no value"]),
    ],
)
def test_bad_argument(argv, parts):
    with pytest.raises(ConfigError) as error:
        load_config(argv)
    assert "\n" not in str(error.value)
    for part in parts:
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("[training]\nstepz = 5", ["training.stepz", "value 5", "'training.steps'"]),
        ("[trainin]\nsteps = 5", ["'trainin'", "trainin.steps = 5", "did you mean 'training'"]),
        ("[trainin]", ["unknown section 'trainin'"]),
        ("[focal_kl]\ngamma = 2", ["'focal_kl' (with focal_kl.gamma = 2)", "job.custom_import"]),
        ("steps = 5", ["'steps'", "no section", "did you mean 'training.steps'"]),
        ("training = 5", ["training = 5", "[training]"]),
        ("[[training]]\nsteps = 5", ["'training' is a section"]),
        ("[training.steps]\nfew = 5", ["training.steps", "an integer"]),
        ('[training]\nsteps = "ten"', ["training.steps", '"ten"', "an integer"]),
        ("[training]\nsteps = 1.0", ["training.steps", "1.0", "an integer"]),
        ("[training]\nsteps = true", ["training.steps", "true", "an integer"]),
        ("[optimizer]\nlr = true", ["optimizer.lr", "true", "a number"]),
        ('[optimizer]\nlr = "1e-4"', ["optimizer.lr", '"1e-4"', "a number"]),
        ("[compile]\nenable = 1", ["compile.enable", "1", "true or false"]),
        ("[job]\nname = 5", ["job.name", "5", "a string"]),
        ("[job]\nname = 2024-01-01", ["job.name", "2024-01-01", "a string"]),
        ('[loss]\nnames = "sft"', ["loss.names", '"sft"', '["a", "b"]']),
        ("[loss]\nnames = [1]", ["loss.names", "[1]", "a list of strings"]),
        ('[loss]\nweights = ["1"]', ["loss.weights", '["1"]', "a list of numbers"]),
        ("[loss]\nweights = [true]", ["loss.weights", "[true]", "a list of numbers"]),
        (f"[optimizer]\nlr = {10**400}", ["optimizer.lr", "too large"]),
        ("[training]\nsteps = \n", ["run.toml:2:", "not valid TOML"]),
        ("[training\n", ["run.toml:1:", "not valid TOML"]),
        ("[a]\n[training]\nsteps = 1\nsteps = 2\n", ["run.toml:4", "not valid TOML"]),
        (f"[training]\nsteps = {'9' * 9999}", ["run.toml", "not valid TOML"]),
        (b"[job]\nname = '\xff'", ["run.toml:2:", "not valid UTF-8"]),
    ],
)
def test_bad_file(tmp_path, text, parts):
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as error:
        load_config(["--job.config_file", path])
    assert "\n" not in str(error.value)
    for part in ["run.toml", *parts]:
        assert part in str(error.value)


def test_file_with_byte_order_mark_and_windows_lines(tmp_path):
    path = write(tmp_path, b"\xef\xbb\xbf[training]\r\nsteps = 3\r\n")
    assert load_config([f"--job.config_file={path}"]).training.steps == 3


def test_config_from_dict():
    config = config_from_dict({"training": {"steps": 3}, "optimizer": {"lr": 1}})
    assert config.training.steps == 3 and config.optimizer.lr == 1.0
    assert config_from_dict(config_tables(config)) == config
    with pytest.raises(ConfigError, match=r"training\.stepz"):
        config_from_dict({"training": {"stepz": 3}})
    with pytest.raises(ConfigError, match="an integer"):
        config_from_dict({"training": {"steps": None}})


def test_config_from_dict_copies_lists():
    names = ["sft"]
    config = config_from_dict({"loss": {"names": names}})
    names.append("other")
    assert config.loss.names == ["sft"]


def test_every_key_is_documented():
    for info in all_keys().values():
        doc = info.metadata["doc"]
        assert doc and "\n" not in doc, info.full_name
        for choice in info.metadata["choices"]:
            assert choice in doc


def test_help_names_every_key(capsys):
    with pytest.raises(SystemExit) as exit_info:
        load_config(["--training.steps", "5", "--help"])
    assert exit_info.value.code == 0
    text = capsys.readouterr().out
    for section in section_names():
        assert f"[{section}]" in text
    for info in all_keys().values():
        assert f"--{info.full_name}  " in text
        assert info.metadata["doc"] in text


def test_import_is_light():
    code = "import sys, tokenkit.config; print(sorted({'torch', 'numpy'} & set(sys.modules)))"
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root)
    assert done.stdout.strip() == "[]", done.stderr


def values_of(kind) -> st.SearchStrategy:
    if get_args(kind):
        return st.lists(values_of(get_args(kind)[0]), max_size=3)
    return {
        bool: st.booleans(),
        int: st.integers(-(2**63), 2**63 - 1),
        float: st.floats(allow_nan=False),
        str: st.text(max_size=12),
    }[kind]


CONFIG_TABLES = st.fixed_dictionaries(
    {
        section: st.fixed_dictionaries(
            {
                # These would be imported.
                i.name: st.just([]) if i.name == "custom_import" else values_of(i.type)
                for i in all_keys().values()
                if i.section == section
            }
        )
        for section in section_names()
    }
)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(tables=CONFIG_TABLES)
def test_saved_config_reads_back_equal(tmp_path, tables):
    config, path = config_from_dict(tables), tmp_path / "saved" / "config.toml"
    save_config(config, path)
    read = load_config(["--job.config_file", str(path)])
    assert read == config
    assert read.job.config_file == str(path)
    expected = {**tables, "job": {**tables["job"], "config_file": str(path)}}
    assert {name: config_tables(read)[name] for name in tables} == expected
    assert os.listdir(path.parent) == ["config.toml"]


def test_save_leaves_the_old_file_when_writing_fails(tmp_path, monkeypatch):
    path = tmp_path / "config.toml"
    save_config(Config(), path)
    before = path.read_bytes()

    def fail(handle):
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", fail)
    config = config_from_dict({"training": {"steps": 1}})
    with pytest.raises(OSError, match="disk full"):
        save_config(config, path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["config.toml"]


@pytest.mark.parametrize(("ranks", "tp", "rows"), [(1, 1, 24), (4, 1, 6), (4, 2, 12), (48, 1, 1)])
def test_rows_at_once_are_a_rank_s_share(ranks, tp, rows):
    arguments = ["--training.batch_size", "24", "--parallelism.tensor_parallel_degree", str(tp)]
    config = load_config(arguments)
    settle(config, ranks)
    assert config.training.micro_batch_size == rows
    given = load_config([*arguments, "--training.micro_batch_size", "3"])
    settle(given, ranks)
    assert given.training.micro_batch_size == 3
