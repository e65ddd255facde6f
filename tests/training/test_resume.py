"""A run that is killed or stopped continues bit for bit."""

from __future__ import annotations

import os
import random
import signal
import time

import pytest

from tests.launch import SPEC_A, read_losses, read_metrics, start_training, train
from tokenkit.training.checkpoint import list_steps

RUN = ["--training.steps", "8", "--checkpoint.enable", "true", "--checkpoint.interval", "2"]
LORA = ["--student.train", "lora", "--lora.rank", "4", "--data.num_workers", "1"]

BYTES = [
    "--student.target_tokenizer", f"{SPEC_A}:conversion=byte",
    "--student.expand_input_ids", "true", "--training.max_student_length", "256",
]  # fmt: skip
SAMPLED = [
    "--student.target_tokenizer", "", "--student.train", "none", "--student.train_embeddings",
    "false", "--hypernet.architecture", "transformer", "--hypernet.num_heads", "4",
    "--hypernet.num_layers", "1", "--hypernet.residual", "false",
    "--hypernet.identity_steps", "3", "--tokenizer_sampler.enable", "true",
    "--tokenizer_sampler.size_min", "1100", "--tokenizer_sampler.size_max", "1300",
    "--tokenizer_sampler.size_mean", "1200", "--tokenizer_sampler.texts", "16",
]  # fmt: skip


def wait_for_step(output_dir, step, timeout=120):
    """Return once a step was logged."""
    end = time.time() + timeout
    while time.time() < end:
        if (output_dir / "metrics.jsonl").exists() and max(
            read_metrics(output_dir), default=0
        ) >= step:
            return
        time.sleep(0.02)
    raise TimeoutError((output_dir / "log").read_text()[-3000:])


@pytest.mark.parametrize(
    ("world", "extra"),
    [
        (1, []),
        (1, [*LORA, "--checkpoint.async_mode", "async"]),
        (2, ["--training.micro_batch_size", "4"]),
        (2, ["--training.micro_batch_size", "4", "--optimizer.state_dtype", "bfloat16"]),
        (1, ["--loss.names", "sft,dskd", "--loss.aggregation", "gradnorm"]),
        (1, [*SAMPLED, "--data.num_workers", "1"]),
        (2, [*SAMPLED, "--training.micro_batch_size", "4"]),
        (1, [*BYTES, "--data.num_workers", "1"]),
    ],
    ids=[
        "full",
        "lora, worker, async",
        "FSDP 2",
        "FSDP 2, bf16 moments",
        "parameters of a loss, gradnorm",
        "hypernet",
        "hypernet, FSDP 2",
        "expanded bytes",
    ],
)
def test_killed_run_resumes_bit_for_bit(base_arguments, texts_file, tmp_path, world, extra):
    # Validation before each save: it leaves parameters gathered that are to be saved in shards.
    validation = ["--data.validation", str(texts_file), "--eval.max_documents", "2"]
    argv = [*base_arguments, *RUN, *validation, "--eval.interval", "1", *extra]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    killed.mkdir()
    train([*argv, "--job.output_dir", str(whole)], world, whole / "log")

    argv += ["--job.output_dir", str(killed)]
    processes = start_training(argv, world, killed / "log")
    wait_for_step(killed, random.randint(3, 7))
    for process in processes:
        os.kill(process.pid, signal.SIGKILL)
    for process in processes:
        process.join()
    saved = list_steps(killed / "checkpoints")
    train(argv, world, killed / "log")

    assert ("resumed from" in (killed / "log").read_text()) == bool(saved)
    assert read_losses(killed) == read_losses(whole)


def test_sigterm_saves_and_leaves_cleanly(base_arguments, tmp_path):
    argv = [*base_arguments, *RUN, "--training.steps", "400", "--checkpoint.interval", "1000",
            "--job.output_dir", str(tmp_path)]  # fmt: skip
    (process,) = start_training(argv, 1, tmp_path / "log")
    wait_for_step(tmp_path, 2)
    os.kill(process.pid, signal.SIGTERM)
    process.join(60)
    assert process.exitcode == 0, (tmp_path / "log").read_text()[-3000:]
    assert list_steps(tmp_path / "checkpoints") == [max(read_metrics(tmp_path))]


def test_resume_under_another_layout(base_arguments, tmp_path):
    """Two ranks continue what one began: same rows, same losses."""
    whole, changed = tmp_path / "whole", tmp_path / "changed"
    whole.mkdir()
    changed.mkdir()
    argv = [*base_arguments, *RUN]
    train([*argv, "--job.output_dir", str(whole)], 1, whole / "log")
    argv += ["--job.output_dir", str(changed)]
    # A fixed rate keeps the shorter first part on the same schedule.
    train([*argv, "--training.steps", "4"], 1, changed / "log")
    first = read_losses(changed)
    train([*argv, "--training.micro_batch_size", "4"], 2, changed / "log")
    assert "training.steps was 4, now 8" in (changed / "log").read_text()
    assert len(first) == 4 and len(read_losses(changed)) == 8


def test_finished_run_does_nothing(base_arguments, tmp_path):
    argv = [*base_arguments, *RUN, "--job.output_dir", str(tmp_path), "--training.steps", "2"]
    train(argv, 1, tmp_path / "log")
    before = (tmp_path / "metrics.jsonl").read_text()
    train(argv, 1, tmp_path / "log")
    assert (tmp_path / "metrics.jsonl").read_text() == before


def test_only_the_latest_checkpoints_are_kept(base_arguments, tmp_path):
    argv = [*base_arguments, *RUN, "--job.output_dir", str(tmp_path),
            "--checkpoint.keep_latest_k", "2"]  # fmt: skip
    train(argv, 1, tmp_path / "log")
    assert list_steps(tmp_path / "checkpoints") == [6, 8]
