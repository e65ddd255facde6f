"""Broken data, settings and folders of runs."""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path

from tests.bad_inputs.files import LONG, MAKERS, maker

GOOD = json.dumps({"text": "fine"})
USER = {"role": "user", "content": "Hi."}
ROWS: dict[str, object] = {
    "row_cut": '{"text": "cut',
    "row_list": '["fine"]',
    "row_number": "3",
    "row_digits": '{"text": "fine", "number": ' + "7" * 5000 + "}",
    "row_deep": "[" * 100_000 + "]" * 100_000,
    "row_long_line": '{"text": ' + LONG,
    "row_long_key": json.dumps({LONG: "x"}),
    "row_long_role": json.dumps({"messages": [{"role": LONG, "content": "x"}]}),
    "row_many_keys": json.dumps({f"column {i}": "x" for i in range(3000)}),
    "row_no_text": json.dumps({"txt": "fine"}),
    "row_text_number": json.dumps({"text": 3}),
    "row_surrogate": '{"text": "half \\ud83d"}',
    "row_role": json.dumps({"messages": [{"role": "narrator", "content": "Once"}]}),
    "row_no_content": json.dumps({"messages": [{"role": "user"}]}),
    "row_content_number": json.dumps({"messages": [{"role": "user", "content": 3}]}),
    "row_messages_text": json.dumps({"messages": "Hi."}),
    "row_tools": json.dumps({"messages": [USER], "tools": "{"}),
    "row_options": json.dumps({"messages": [USER], "chat_template_kwargs": [1]}),
    "row_prompt_number": json.dumps({"prompt": 3, "completion": "x"}),
    "row_prompt_alone": json.dumps({"prompt": "x"}),
    "row_alpaca_no_output": json.dumps({"instruction": "x", "input": ""}),
    "row_sharegpt_from": json.dumps({"conversations": [{"from": "narrator", "value": "x"}]}),
    "row_sharegpt_value": json.dumps({"conversations": [{"from": "human", "value": 3}]}),
    "row_ambiguous": json.dumps(
        {"prompt": "a", "completion": "b", "instruction": "c", "output": "d"}
    ),
}
for _name, _row in ROWS.items():
    MAKERS[_name] = lambda files, path, row=_row: _lines(path, [GOOD, GOOD, row])


def _lines(path: Path, lines: list) -> Path:
    file = path.with_suffix(".jsonl")
    file.write_text("".join(f"{line}\n" for line in lines))
    return file


@maker
def data_not_utf8(files, path):
    file = path.with_suffix(".jsonl")
    file.write_bytes(b'{"text": "caf\xe9"}\n')
    return file


@maker
def data_utf16(files, path):
    file = path.with_suffix(".jsonl")
    file.write_bytes((GOOD + "\n").encode("utf-16"))
    return file


@maker
def data_empty(files, path):
    return _lines(path, [])


@maker
def data_blank(files, path):
    return _lines(path, [json.dumps({"text": " "})] * 3)


@maker
def data_pipe(files, path):
    file = path.with_suffix(".jsonl")
    os.mkfifo(file)
    return file


@maker
def data_pipe_in_folder(files, path):
    path.mkdir()
    (path / "a.jsonl").write_text(GOOD + "\n")
    os.mkfifo(path / "b.jsonl")


@maker
def data_folder_named_like_a_file(files, path):
    folder = path.with_suffix(".jsonl")
    folder.mkdir()
    return folder


@maker
def data_kind(files, path):
    file = path.with_suffix(".csv")
    file.write_text("text\nfine\n")
    return file


@maker
def data_object(files, path):
    file = path.with_suffix(".json")
    file.write_text(json.dumps({"rows": [1]}, indent=1))
    return file


@maker
def data_list_cut(files, path):
    file = path.with_suffix(".json")
    file.write_text('[{"text": "fine"},\n {"text": ')
    return file


@maker
def data_list_digits(files, path):
    file = path.with_suffix(".json")
    file.write_text('[{"text": "fine"},\n {"text": "fine", "n": ' + "7" * 5000 + "}]")
    return file


@maker
def data_parquet(files, path):
    file = path.with_suffix(".parquet")
    file.write_bytes(b"PAR1" + b"\x00" * 100)
    return file


@maker
def data_loop(files, path):
    file = path.with_suffix(".jsonl")
    file.symlink_to(file)
    return file


@maker
def data_device(files, path):
    file = path.with_suffix(".jsonl")
    file.symlink_to("/dev/zero")
    return file


@maker
def good_rows(files, path):
    return _lines(path, [GOOD] * 20)


@maker
def plain_file(files, path):
    path.write_text("a file")


@maker
def taken_folder(files, path):
    path.mkdir()
    (path / "precious").write_text("keep")


# Settings with a null character, which no path may have.
NULS = {
    "toml_nul": '[job]\noutput_dir = "a\\u0000b"\n',
    "toml_nul_data": '[data]\nvalidation = ["a\\u0000b.jsonl"]\n',
    "toml_nul_model": '[teacher]\nmodel = "./a\\u0000b"\ntokenizer = "./a\\u0000b"\n',
    "toml_nul_token": '[student]\ntokens_to_add = ["a\\u0000b"]\n',
    "toml_nul_import": '[job]\ncustom_import = ["a\\u0000b.py"]\n',
}


def _write_settings(files, path, text):
    file = path.with_suffix(".toml")
    file.write_text(text)
    return file


MAKERS.update({name: partial(_write_settings, text=text) for name, text in NULS.items()})


@maker
def leaves(files, path):
    file = path.with_suffix(".py")
    file.write_text("import sys\nsys.exit(0)\n")
    return file


@maker
def run_checkpoints_file(files, path):
    path.mkdir()
    (path / "checkpoints").write_text("a file")


@maker
def run_metrics_folder(files, path):
    (path / "metrics.jsonl").mkdir(parents=True)


@maker
def run_config_folder(files, path):
    (path / "config.toml").mkdir(parents=True)


@maker
def run_tensorboard_file(files, path):
    path.mkdir()
    (path / "tensorboard").write_text("a file")


@maker
def slow_row(files, path):
    return _lines(path, [GOOD, json.dumps({"messages": [{"role": "user", "content": "slow"}]})])


@maker
def long_words(files, path):
    return _lines(path, [json.dumps({"text": "the quick brown fox jumps over it " * 40})])


@maker
def resumed(files, path):
    shards = path / "info.partial" / "shards"
    shards.mkdir(parents=True)
    (shards / "arguments.json").write_text('{"tokenizers": ["')
