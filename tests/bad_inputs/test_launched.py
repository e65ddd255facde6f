"""Bad input as a user meets it: run_train.sh, torchrun, and programs in processes of their own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

from tests.bad_inputs.files import contents
from tests.bad_inputs.running import LIMIT, LONGEST, check_refused, run_command
from tests.launch import ROOT, free_port

PATH = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])

# One of each place where it is found; all others are in one process (test_files, test_settings).
LAUNCHED = [
    ("unknown key", 1, ["--training.stepz=3"], r"training\.stepz.*training\.steps"),
    ("bad row", 2, ["--data.train={row_digits}", "--training.micro_batch_size=4"],
     r"row_digits\.jsonl:3"),
    ("named pipe", 1, ["--data.train={data_pipe}"], r"named pipe"),
    ("import that leaves", 1, ["--job.custom_import={leaves}"], r"job\.custom_import"),
    ("ranks do not fit", 2, ["--training.micro_batch_size=8"], r"ranks \(2\)"),
]  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def installed(tmp_path_factory):
    """torchrun finds the plugin as where tokenkit is installed by its pyproject.toml."""
    place = tmp_path_factory.mktemp("installed")
    project = tomllib.loads(Path(ROOT, "pyproject.toml").read_text())["project"]
    plugins = project["entry-points"]["torchrun.handlers"]
    folder = place / "tokenkit_as_installed-0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: tokenkit-as-installed\n")
    (folder / "entry_points.txt").write_text(
        "[torchrun.handlers]\n"
        + "".join(f"{name} = {function}\n" for name, function in plugins.items())
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([ROOT, str(place)]))
        yield


def torchrun(way, world, argv, cwd, *options, **variables):
    """Exit code, and what was said, of a launch in one of the ways that users have."""
    environment = {
        **os.environ,
        "PATH": PATH,
        "OMP_NUM_THREADS": "1",
        "NGPU": str(world),
        **variables,
    }
    command = ["bash", f"{ROOT}/run_train.sh"]
    if way == "torchrun":
        options = [f"--nproc-per-node={world}", f"--master-port={free_port()}", *options]
        command = [sys.executable, "-m", "torch.distributed.run", *options, f"{ROOT}/train.py"]
    begin = time.time()
    done = subprocess.run(
        [*command, *argv], cwd=cwd, env=environment, capture_output=True, text=True, timeout=120
    )
    assert time.time() - begin < 3 * LIMIT  # torch is imported twice
    return done.returncode, done.stdout + done.stderr


def clear_line(code: int, text: str) -> str:
    """The error, which is shown once and after which nothing is said."""
    assert code == 2, text
    assert not re.search(r"Traceback|torch.distributed.elastic", text), text[-3000:]
    errors = [line for line in text.splitlines() if "error: " in line]
    assert len(errors) == 1 and text.splitlines()[-1] == errors[0], text[-3000:]
    (line,) = errors
    assert line.startswith("error: ") and len(line) <= LONGEST
    return line


@pytest.mark.slow
@pytest.mark.parametrize(
    ("world", "arguments", "says"), [pytest.param(w, a, s, id=name) for name, w, a, s in LAUNCHED]
)
def test_through_torchrun(world, arguments, says, files, small_run, cwd):
    argv = small_run + [files.fill(argument) for argument in arguments]
    way = "torchrun" if world == 1 else "run_train.sh"
    check_refused(clear_line(*torchrun(way, world, argv, cwd)), says, cwd)


@pytest.mark.slow
def test_what_was_refused_is_not_tried_again(files, small_run, cwd):
    """Each of torchrun's restarts would meet the same error."""
    argv = [*small_run, "--training.micro_batch_size=4", "--data.check=false"]
    argv += [files.fill("--data.train={row_digits}")]
    code, text = torchrun("torchrun", 2, argv, cwd, "--max-restarts=2")
    assert re.search(r"row_digits\.jsonl:3", clear_line(code, text))


def test_torchrun_of_other_programs_is_left_alone(cwd):
    (cwd / "train.py").write_text("raise SystemExit(2)")
    command = [sys.executable, "-m", "torch.distributed.run", f"--master-port={free_port()}"]
    done = subprocess.run([*command, "train.py"], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 1 and "ChildFailedError" in done.stderr


@pytest.mark.parametrize("number", ["x", "0", "-1", "1.5", "", "a[0]", "99999"])
def test_ngpu(number, small_run, cwd):
    if number:
        code, text = torchrun("run_train.sh", 1, small_run, cwd, NGPU=number)
        check_refused(clear_line(code, text), rf"NGPU = '{re.escape(number)}'", cwd)
    else:  # as if it were not set
        code, text = torchrun("run_train.sh", 1, [*small_run, "--nonsense"], cwd, NGPU=number)
        assert "NGPU" not in text and code


def test_log_rank_through_torchrun(small_run, cwd):
    found = torchrun("torchrun", 1, small_run, cwd, LOG_RANK="all")
    check_refused(clear_line(*found), r"LOG_RANK = 'all'", cwd)


@pytest.mark.parametrize(
    ("command", "arguments", "says"),
    [
        ("train", ["--student.model={embedding_width}"], r"embed_tokens\.weight"),
        ("eval_bpb", ["--model=./nowhere", "--tokenizer=x", "--data=x"], r"--model.*nowhere"),
        ("eval_bpb", ["--model"], r"--model"),
        ("zett", ["--model=x", "--tokenizer=x", "--target=x", "--output=."], r"--output '\.'"),
    ],
)
def test_in_a_process(command, arguments, says, files, small_run, cwd):
    argv = [files.fill(argument) for argument in arguments]
    outcome = run_command(command, small_run + argv if command == "train" else argv, cwd)
    check_refused(outcome.error, says, cwd)
    assert outcome.code == 2 and outcome.text.splitlines()[-1] == outcome.error


def test_a_taken_port(small_run, cwd):
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        variables = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
        outcome = run_command("train", small_run, cwd, {**variables, "MASTER_PORT": port})
    check_refused(outcome.error, rf"MASTER_PORT = 127\.0\.0\.1:{port}.*free port", cwd)


def test_what_is_there_stays(files, small_run, cwd):
    """A run's folder is as it was after a refusal, even one that asked to overwrite."""
    (cwd / "run" / "checkpoints" / "step-00000003").mkdir(parents=True)
    (cwd / "run" / "metrics.jsonl").write_text("{}\n")
    before = contents(cwd)
    for bad in ("--student.model={layer_missing}", "--data.train={row_role}"):
        argv = ["--job.output_dir=run", "--checkpoint.overwrite=true", files.fill(bad)]
        assert run_command("train", small_run + argv, cwd).error
        assert contents(cwd) == before
