"""One folder, one run: a second one is refused at once, a killed one's place is taken."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time

import pytest

from tests.launch import read_losses, read_metrics, start_training, train
from tests.test_bad_inputs import contents, run_badly
from tokenkit.errors import CheckpointError, ConfigError
from tokenkit.processes import process_start
from tokenkit.training.run_lock import NAME, RunLock


@pytest.fixture
def sleeper():
    """A process of this machine that has nothing to do with the folder's owner or us."""
    process = subprocess.Popen(["sleep", "60"])
    yield process
    process.kill()
    process.wait()


def write_lock(folder, **changes):
    owner = {"host": socket.gethostname(), "pid": os.getpid(), "start": "0", "since": 0.0}
    folder.mkdir(exist_ok=True)
    (folder / NAME).write_text(json.dumps({**owner, **changes}))


def test_is_let_go_of(tmp_path):
    with RunLock(tmp_path / "run") as lock:
        lock.take()
        assert json.loads((tmp_path / "run" / NAME).read_text())["pid"] == os.getpid()
    assert not list((tmp_path / "run").iterdir())


def test_is_let_go_of_after_an_error(tmp_path):
    with pytest.raises(ZeroDivisionError), RunLock(tmp_path) as lock:
        lock.take()
        _ = 1 / 0
    assert not list(tmp_path.iterdir())


def test_a_living_process_keeps_it(tmp_path, sleeper):
    pid = sleeper.pid
    write_lock(tmp_path, pid=pid, start=process_start(pid), since=time.time() - 7260)
    with pytest.raises(ConfigError, match=rf"process {pid}, for 2 h 1 min\).*another folder"):
        RunLock(tmp_path).take(patience=0.0)
    sleeper.kill()  # but not asked for by its parent: there is nobody who would ask
    with RunLock(tmp_path) as lock:
        lock.take()


def test_a_number_used_again_does_not(tmp_path, sleeper):
    write_lock(tmp_path, pid=sleeper.pid, start="1")
    with RunLock(tmp_path) as lock:
        lock.take(patience=0.0)


def test_a_killed_process_may_take_its_time(tmp_path, sleeper):
    write_lock(tmp_path, pid=sleeper.pid, start=process_start(sleeper.pid))
    subprocess.Popen(["sh", "-c", f"sleep 0.5; kill -9 {sleeper.pid}"])
    with RunLock(tmp_path) as lock:
        lock.take()


def test_another_machine_is_not_judged(tmp_path):
    write_lock(tmp_path, host="elsewhere", pid=1, start="1")
    begin = time.time()
    with pytest.raises(ConfigError, match=rf"host elsewhere, process 1.*delete '.*{NAME}'"):
        RunLock(tmp_path).take()
    assert time.time() - begin < 1.0


def test_a_refused_one_leaves_the_file(tmp_path):
    write_lock(tmp_path, host="elsewhere", pid=1, start="1")
    with pytest.raises(ConfigError), RunLock(tmp_path) as lock:
        lock.take()
    assert (tmp_path / NAME).exists()


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / NAME).write_text("{")
    with pytest.raises(CheckpointError, match=f"{NAME}.*delete it"):
        RunLock(tmp_path).take()


def test_a_folder_that_cannot_be_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"job.output_dir = '.*run' cannot be written: Not a dir"):
        RunLock(tmp_path / "file" / "run").take()


def wait_for_step(folder, step):
    end = time.time() + 60
    while not (folder / "metrics.jsonl").exists() or max(read_metrics(folder), default=0) < step:
        assert time.time() < end
        time.sleep(0.05)


@pytest.mark.slow
def test_a_second_run_changes_nothing(base_arguments, tmp_path):
    """Not even when it was told to replace what is there; the first run goes on to its end."""
    folder = tmp_path / "run"
    argv = [*base_arguments, "--job.output_dir", str(folder), "--training.steps", "400",
            "--checkpoint.enable", "true", "--checkpoint.interval", "5"]  # fmt: skip
    (first,) = start_training(argv, 1, tmp_path / "first")
    wait_for_step(folder, 6)
    os.kill(first.pid, signal.SIGSTOP)  # so that what changes is the second one's doing
    before = contents(folder)
    second = [*argv, "--checkpoint.overwrite", "true", "--training.micro_batch_size", "4"]
    line = run_badly(second, 2, tmp_path / "second")
    assert "in use by another run" in line and f"process {first.pid}" in line, line
    assert contents(folder) == before
    os.kill(first.pid, signal.SIGCONT)
    os.kill(first.pid, signal.SIGTERM)
    first.join(60)
    assert first.exitcode == 0 and not (folder / NAME).exists()


@pytest.mark.slow
def test_a_killed_run_is_taken_over(base_arguments, tmp_path):
    folder = tmp_path / "run"
    argv = [*base_arguments, "--job.output_dir", str(folder), "--training.steps", "12"]
    (first,) = start_training(argv, 1, tmp_path / "log")
    wait_for_step(folder, 2)
    first.kill()
    first.join()
    assert (folder / NAME).exists()
    train(argv, 1, tmp_path / "log")
    assert len(read_losses(folder)) == 12 and not (folder / NAME).exists()


def test_of_another_machine_and_untouched_for_long(tmp_path, caplog):
    """After a node has died, the run starts on another one."""
    write_lock(tmp_path, host="elsewhere", pid=1, start="1")
    old = time.time() - 301
    os.utime(tmp_path / "run.lock", (old, old))
    with RunLock(tmp_path) as lock:
        lock.take()
    assert not (tmp_path / "run.lock").exists()


def test_a_run_touches_its_file(tmp_path, monkeypatch):
    monkeypatch.setattr("tokenkit.training.run_lock.BEAT", 0.01)
    with RunLock(tmp_path) as lock:
        lock.take()
        os.utime(tmp_path / "run.lock", (0, 0))
        end = time.time() + 5
        while (tmp_path / "run.lock").stat().st_mtime == 0 and time.time() < end:
            time.sleep(0.01)
        assert (tmp_path / "run.lock").stat().st_mtime > 0
