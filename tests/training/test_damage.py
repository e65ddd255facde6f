"""Checkpoints that were damaged, replaced or forged: named, and the newest whole one is used."""

from __future__ import annotations

import json
import os
import pickle
import random
import shutil
import time
from pathlib import Path

import pytest
import torch
import xxhash
from safetensors.torch import load_file
from torch import nn

from tokenkit.config import config_from_dict
from tokenkit.errors import CheckpointError
from tokenkit.training.checkpoint import Checkpointer, find_checkpoints, list_steps
from tokenkit.training.checkpoint import writing as writing_module

FILES = ("rank-00000.safetensors", "random-00000.json", "manifest.json")


class Bomb:
    """Creates a file where it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self):
        return os.mkdir, (str(self.canary),)


class Run:
    """A model of a few numbers, trained by adding to them."""

    def __init__(self, folder: Path, parallel, **checkpoint) -> None:
        data = folder.parent / "rows.jsonl"
        if not data.exists():
            data.write_text('{"text": "abc"}\n')
        self.folder = folder
        config = config_from_dict(
            {
                "job": {"output_dir": str(folder)},
                "data": {"train": [str(data)]},
                "checkpoint": {"keep_latest_k": 2, **checkpoint},
            }
        )
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(5, 3), nn.Linear(3, 7, bias=False))
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.1)
        self.extra = {"weights": torch.zeros(2)}
        self.checkpointer = Checkpointer(config, self.model, self.optimizer, parallel, self.extra)

    def train(self, *steps: int) -> None:
        for step in steps:
            self.model(torch.ones(2, 5)).sum().backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.extra["weights"] += torch.rand(2)
            self.checkpointer.save(step)
        self.checkpointer.finish()

    @property
    def values(self) -> list[float]:
        moments = [s["exp_avg"] for s in self.optimizer.state.values()]
        tensors = [*self.model.parameters(), *moments, self.extra["weights"]]
        return torch.cat([t.detach().flatten() for t in tensors]).tolist()


@pytest.fixture
def run(tmp_path, parallel):
    return lambda **settings: Run(tmp_path / "run", parallel, **settings)


@pytest.fixture
def saved(run):
    """A run with checkpoints of steps 2 and 4, and the values of step 2."""
    made = run()
    made.checkpointer.load()
    made.train(2)
    before = made.values
    made.train(4)
    return made, before


def damaged(data: bytes, how: str, number: int, canary: Path) -> bytes | None:
    if how == "truncated":
        return data[: len(data) * 2 // 3]
    if how == "longer":
        return data + b"\0"
    if how == "empty":
        return b""
    if how == "bomb":
        return pickle.dumps(Bomb(canary))
    place = random.Random(number).randrange(len(data))
    return data[:place] + bytes([data[place] ^ (1 << number % 8)]) + data[place + 1 :]


HOWS = ["truncated", "longer", "empty", "bomb", "deleted", "other step's", *["flipped"] * 20]


@pytest.mark.parametrize("name", FILES)
def test_damaged_files_are_named_and_the_one_before_is_used(name, saved, run, tmp_path, caplog):
    _, before = saved
    newest = tmp_path / "run" / "checkpoints" / "step-00000004"
    path, whole = newest / name, (newest / name).read_bytes()
    for number, how in enumerate(HOWS):
        if how == "deleted":
            path.unlink()
        elif how == "other step's":
            shutil.copy(newest.with_name("step-00000002") / name, path)
        else:
            path.write_bytes(damaged(whole, how, number, tmp_path / "canary"))
        caplog.clear()
        again = run()
        assert again.checkpointer.load() == 2, how
        assert again.values == before, how
        if (how, name) != ("deleted", "manifest.json"):  # without, it never was a checkpoint
            assert "step-00000004" in caplog.text, how
            assert name in caplog.text or "renamed" in caplog.text, how
        assert not (tmp_path / "canary").exists()
        path.write_bytes(whole)
    assert run().checkpointer.load() == 4


def test_no_whole_one_left(saved, run, tmp_path):
    root = tmp_path / "run" / "checkpoints"
    for path in root.glob("*/*.safetensors"):
        path.write_bytes(path.read_bytes()[:-1])
    names = sorted(p.name for p in root.rglob("*"))
    with pytest.raises(CheckpointError, match=r"no whole checkpoint.*nothing was changed.*new f"):
        run().checkpointer.load()
    assert sorted(p.name for p in root.rglob("*")) == names


def test_asked_for_and_damaged(saved, run, tmp_path):
    path = tmp_path / "run" / "checkpoints" / "step-00000004" / FILES[0]
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=r"step-00000004' is damaged.*bytes"):
        run(load_step=4).checkpointer.load()
    with pytest.raises(CheckpointError, match=r"load_step = 3: no such.*there: 2, 4"):
        run(load_step=3).checkpointer.load()


def test_renamed_and_pickled_ones(saved, run, tmp_path, caplog):
    root = tmp_path / "run" / "checkpoints"
    (root / "step-00000004").rename(root / "step-00000009")
    old = root / "step-00000006"
    old.mkdir()
    (old / ".metadata").write_bytes(pickle.dumps(Bomb(tmp_path / "canary")))
    assert run().checkpointer.load() == 2
    assert "was renamed: it is of step 4" in caplog.text
    assert "was pickled by an earlier version" in caplog.text
    shutil.rmtree(root / "step-00000002")
    with pytest.raises(CheckpointError, match="export it with that version"):
        run().checkpointer.load()
    assert not (tmp_path / "canary").exists()


def test_going_back_keeps_what_is_written_then(saved, run, tmp_path):
    root = tmp_path / "run" / "checkpoints"
    again = run(load_step=2)
    assert again.checkpointer.load() == 2
    again.train(3)
    assert list_steps(root) == [3, 4]
    assert [c.step for c in find_checkpoints(root)[0]] == [3, 4]  # newest first
    assert run().checkpointer.load() == 3
    again.train(4)
    assert [c.step for c in find_checkpoints(root)[0]] == [4, 3]


def test_restarted_by_torchrun(saved, run, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert run(load_step=2).checkpointer.load() == 4


def test_what_others_made_is_kept(saved, run, tmp_path, caplog):
    root = tmp_path / "run" / "checkpoints"
    mine = [root / "step-00000006", root / "step-00000006.partial", root / ".step-6.partial"]
    for folder in mine:
        folder.mkdir()
        (folder / "notes.txt").write_text("mine")
    left = root / ".step-00000006-abc.partial"
    left.mkdir()
    (left / "being-written").touch()
    again = run()
    assert again.checkpointer.load() == 4
    again.train(6)
    assert list_steps(root) == [4, 6] and not left.exists()
    assert all((folder / "notes.txt").is_file() for folder in mine[1:])
    assert (root / "step-00000006.aside-1" / "notes.txt").is_file()
    assert "is no checkpoint" in caplog.text


def test_no_space(saved, run, monkeypatch, tmp_path):
    root = tmp_path / "run" / "checkpoints"

    def full(*_):
        raise OSError(28, "No space left on device")

    again = run()
    again.checkpointer.load()
    monkeypatch.setattr(writing_module, "write_safetensors", full)
    with pytest.raises(CheckpointError, match=r"step 5.*rank 0.*No space left.*step 4 is whole"):
        again.train(5)
    assert list_steps(root) == [2, 4]
    monkeypatch.undo()
    assert run().checkpointer.load() == 4


def test_replaced_data(saved, run, tmp_path):
    data = tmp_path / "rows.jsonl"
    whole = data.read_text()
    data.write_text(whole.replace("abc", "abd"))
    with pytest.raises(CheckpointError, match=r"data\.train.*other data of the same size"):
        run().checkpointer.load()
    data.write_text(whole * 2)
    with pytest.raises(CheckpointError, match=r"data\.train.*bytes, it had"):
        run().checkpointer.load()
    data.write_text(whole)
    assert run().checkpointer.load() == 4


def test_asynchronous_save_counts_when_it_is_written(run, tmp_path):
    made = run(async_mode="async")
    made.checkpointer.load()
    made.checkpointer.save(1)
    with torch.no_grad():
        for parameter in made.model.parameters():
            parameter.zero_()  # training goes on
    end = time.time() + 10
    while not list_steps(tmp_path / "run" / "checkpoints") and time.time() < end:
        time.sleep(0.01)
    again = run()
    assert again.checkpointer.load() == 1
    assert all(p.abs().sum() > 0 for p in again.model.parameters())


@pytest.mark.parametrize("with_optimizer", [False, True])
def test_initial_load(with_optimizer, saved, parallel, tmp_path):
    other, _ = saved
    for name in ("run", "run/checkpoints/step-00000004"):
        folder = tmp_path / f"new{with_optimizer}{len(name)}"
        settings = {"initial_load": str(tmp_path / name)}
        new = Run(folder, parallel, initial_load_optimizer=with_optimizer, **settings)
        start = new.values
        assert new.checkpointer.load() == 0
        weights = sum(p.numel() for p in new.model.parameters())
        assert new.values[:weights] == other.values[:weights] != start[:weights]
        moments = new.values[weights:]
        assert (moments == other.values[weights:]) == with_optimizer


def test_initial_load_of_a_model(run, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"initial_load.*neither a run.*student\.model"):
        run(initial_load=str(tmp_path)).checkpointer.load()


def test_last_one_holds_the_model_alone(run, tmp_path):
    made = run(last_save_model_only=True, export_dtype="bfloat16")
    made.checkpointer.load()
    made.checkpointer.save(3, last=True)
    folder = tmp_path / "run" / "checkpoints" / "step-00000003"
    tensors = load_file(folder / FILES[0])
    assert set(tensors) == {f"model.{name}" for name, _ in made.model.named_parameters()}
    for name, parameter in made.model.named_parameters():
        assert torch.equal(tensors[f"model.{name}"], parameter.detach().bfloat16())
    with pytest.raises(CheckpointError, match=r"the model alone.*initial_load"):
        run().checkpointer.load()


def test_saved_by_the_clock(run, tmp_path, monkeypatch):
    checkpointer = run(interval_minutes=2, interval=100).checkpointer
    assert not checkpointer.overdue and not checkpointer.due(1, False, False)
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 121)
    assert checkpointer.overdue and checkpointer.due(1, False, True)


def test_files_are_plain_safetensors(saved, tmp_path):
    made, _ = saved
    folder = tmp_path / "run" / "checkpoints" / "step-00000004"
    tensors = load_file(folder / FILES[0])
    for name, parameter in made.model.named_parameters():
        assert torch.equal(tensors[f"model.{name}"], parameter.detach())
    assert json.loads((folder / "manifest.json").read_text())["content"]["step"] == 4


def test_a_damaged_one_does_not_push_out_the_last_whole_one(saved, run, tmp_path):
    root = tmp_path / "run" / "checkpoints"
    path = root / "step-00000004" / FILES[0]
    path.write_bytes(path.read_bytes()[:-1])
    again = run()
    assert again.checkpointer.load() == 2
    again.train(3)
    assert list_steps(root) == [2, 3, 4]
    again.train(5)
    assert list_steps(root) == [3, 4, 5]


def test_asked_for_with_a_damaged_manifest(saved, run, tmp_path):
    path = tmp_path / "run" / "checkpoints" / "step-00000002" / "manifest.json"
    path.write_text(path.read_text()[:-5])
    with pytest.raises(CheckpointError, match=r"load_step = 2.*manifest\.json cannot be read"):
        run(load_step=2).checkpointer.load()


@pytest.mark.parametrize(
    "change",
    [{"files": {}}, {"step": "4"}, {"tensors": 3}, {"format": 9}, {"files": {"../x": {}}}],
    ids=str,
)
def test_forged_manifests_are_one_line(change, saved, run, tmp_path, caplog):
    path = tmp_path / "run" / "checkpoints" / "step-00000004" / "manifest.json"
    content = json.loads(path.read_text())["content"] | change
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    whole = {"hash": xxhash.xxh3_128(text.encode()).hexdigest(), "content": content}
    path.write_text(json.dumps(whole))
    assert run().checkpointer.load() == 2
    assert "step-00000004' " in caplog.text


def test_a_finished_run_with_the_model_alone(run, tmp_path):
    made = run(last_save_model_only=True)
    made.checkpointer.load()
    made.checkpointer.save(2)
    made.checkpointer.save(100, last=True)
    assert made.checkpointer.config.training.steps == 100
    assert run().checkpointer.load() == 100  # nothing is left to do
    again = run()
    again.checkpointer.config.training.steps = 200
    assert again.checkpointer.load() == 2


def test_a_crash_between_two_names(saved, run, tmp_path):
    """The former checkpoint of a step was moved away, and the new one has no name yet."""
    root = tmp_path / "run" / "checkpoints"
    left = root / ".step-00000004-abc.partial"
    left.mkdir()
    (left / "being-written").touch()
    (root / "step-00000004").rename(left / "former")
    again = run()
    assert again.checkpointer.load() == 2
    again.train(3)
    assert list_steps(root) == [3, 4] and not left.exists()
