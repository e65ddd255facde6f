"""What the settings name is fetched once a machine; the hub is a folder here."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import constants

from tests.launch import CONTEXT, SPEC_A, TOKENIZERS
from tokenkit.cli.fetch import fetch_for
from tokenkit.config import Config, load_config
from tokenkit.config.load import config_from_dict
from tokenkit.errors import ConfigError, ModelError
from tokenkit.training import fetch as fetching
from tokenkit.training.fetch import Need, fetch_all, is_here, needs, turn


class FakeHub:
    """Downloads by copying from one folder into another, slowly, and writes down what."""

    def __init__(self, folder: Path, patch) -> None:
        self.remote, self.cache = folder / "remote", folder / "cache"
        self.log = folder / "log"
        self.log.touch()
        patch.setattr(huggingface_hub, "snapshot_download", self.download)
        patch.setattr(constants, "HF_HUB_CACHE", str(self.cache))
        patch.setattr(constants, "HF_HUB_OFFLINE", False)

    def download(self, name, revision=None, allow_patterns=(), local_files_only=False):
        target = self.cache / name / (revision or "main")
        if not local_files_only:
            with self.log.open("a") as file:
                file.write(f"{name}@{revision}\n")
            time.sleep(0.2)
            target.mkdir(parents=True, exist_ok=True)
            for pattern in allow_patterns:
                for path in (self.remote / name).glob(pattern):
                    shutil.copy(path, target)
        if not target.is_dir() or not any(target.iterdir()):
            raise FileNotFoundError(f"no {name}")
        return str(target)

    @property
    def downloads(self) -> list[str]:
        return self.log.read_text().splitlines()


@pytest.fixture
def offline_as_it_was(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


@pytest.fixture
def hub(tmp_path, monkeypatch, offline_as_it_was, tiny_llama) -> FakeHub:
    found = FakeHub(tmp_path, monkeypatch)
    shutil.copytree(tiny_llama, found.remote / "org" / "model")
    shutil.copytree(TOKENIZERS / "bpe_a", found.remote / "org" / "words")
    return found


def config_of(**sections) -> Config:
    student = {"model": "org/model", "tokenizer": "org/words@v2:source=Llama3"}
    return config_from_dict({"student": student, **sections})


def test_all_that_is_named(tiny_llama):
    teacher = {"model": "org/teacher", "tokenizer": "org/model"}
    data = {"train": ["hf:org/texts:en", "x.jsonl"], "validation": ["hf:org/texts:en"]}
    assert needs(config_of(teacher=teacher, data=data)) == [
        Need("student.model", "org/model", "model"),
        Need("teacher.model", "org/teacher", "model"),
        Need("student.tokenizer", "org/words@v2:source=Llama3", "tokenizer"),
        Need("teacher.tokenizer", "org/model", "tokenizer"),
        Need("data.train", "hf:org/texts:en", "data", "train"),
        Need("data.train", "x.jsonl", "data", "train"),
    ]
    student = {"model": "org/model", "init": "random", "tokenizer": str(tiny_llama)}
    cached = {**teacher, "cache": "folder"}
    found = needs(config_of(student=student, teacher=cached, data={**data, "streaming": True}))
    assert [(need.kind, need.is_local) for need in found] == [
        ("config", False), ("tokenizer", True), ("tokenizer", False), ("data", True)
    ]  # fmt: skip


def test_what_is_there_is_not_fetched_again(hub, tiny_llama, capsys, monkeypatch):
    config = config_of(teacher={"model": str(tiny_llama), "tokenizer": SPEC_A})
    for state in ("fetched", "here already"):
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        fetch_for(config)
        assert capsys.readouterr().out.splitlines() == [
            f"student.model: org/model: {state}",
            f"teacher.model: {tiny_llama}: a local path, left alone",
            f"student.tokenizer: org/words@v2:source=Llama3: {state}",
            f"teacher.tokenizer: {SPEC_A}: a local path, left alone",
        ]
        assert constants.HF_HUB_OFFLINE
        assert hub.downloads == ["org/model@None", "org/words@v2"]
    assert not list((hub.cache / "org/words/v2").glob("*.safetensors"))
    (hub.cache / "org/model/main/config.json").unlink()  # as after a tokenizer alone
    assert not is_here(Need("student.model", "org/model", "model"))


def test_weights_come_with_the_model_that_brought_its_tokenizer_before(hub):
    tokenizer, model = (Need("", "org/model", kind) for kind in ("config", "model"))
    fetching.fetch(tokenizer)
    assert is_here(tokenizer) and not is_here(model)
    fetching.fetch(model)
    assert is_here(model)


def test_what_the_hub_does_not_have_is_said(hub):
    student = {"model": "org/nothing", "tokenizer": "org/words"}
    with pytest.raises(ModelError, match="model 'org/nothing' is neither a local folder nor avai"):
        fetch_all(config_of(student=student))
    student = {"model": "org/model", "tokenizer": "org/nothing"}
    with pytest.raises(ModelError, match="'org/nothing' cannot be fetched from the hub"):
        fetch_all(config_of(student=student))


def test_streams_and_tasks_still_need_the_hub(hub):
    fetch_all(config_of(data={"streaming": True}))
    assert not constants.HF_HUB_OFFLINE
    fetch_all(config_of(eval={"tasks": ["x"]}))
    assert not constants.HF_HUB_OFFLINE


def test_data_are_read_from_the_cache(hub, monkeypatch):
    asked = []

    def load(name, split, streaming):
        asked.append((name, split, constants.HF_HUB_OFFLINE))
        if constants.HF_HUB_OFFLINE and len(asked) == 1:
            raise fetching.DataError("not here")
        return [{"text": "one"}]

    monkeypatch.setattr("tokenkit.data.sources._load_hub", load)
    said = []
    for _ in range(2):
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        config = config_of(data={"train": ["hf:org/texts"]})
        fetch_all(config, lambda need, what: said.append((need.kind, what)))
    assert asked == [("hf:org/texts", "train", at) for at in (True, False, True)]
    assert [what for kind, what in said if kind == "data"] == ["fetched", "here"]


def _fetch_in_a_process(folder: Path, hub_of) -> None:
    with pytest.MonkeyPatch.context() as patch:
        FakeHub(folder, patch)
        fetch_all(config_of())


def test_processes_take_turns(hub, tmp_path):
    processes = [
        CONTEXT.Process(target=_fetch_in_a_process, args=(tmp_path, None)) for _ in range(4)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 4
    assert hub.downloads == ["org/model@None", "org/words@v2"]


def test_waiting_ends(tmp_path):
    lock = tmp_path / "cache" / "lock"
    with turn(lock, 1.0):
        begin = time.monotonic()
        with pytest.raises(ConfigError, match=r"startup_timeout_minutes = 0\.005 are over.*fetch"):
            with turn(lock, 0.3):
                pass
        assert 0.2 < time.monotonic() - begin < 5
    with turn(lock, 0.3):
        pass


def test_nothing_is_asked_for_local_paths(base_arguments, monkeypatch):
    def fail(*_, **__):
        raise AssertionError("asked")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    monkeypatch.setattr(fetching, "turn", fail)
    states = []
    fetch_all(load_config(base_arguments), lambda need, what: states.append(what))
    assert states == ["local"] * 4
