"""train.py from its command line against plain torch: the rates and decays of all its steps."""

from __future__ import annotations

import pytest

from tests.launch import SPEC_A, read_metrics, train
from tests.training.in_process import Training
from tests.training.plain_build import plain_training
from tests.training.small_runs import STEPS, arguments, read_config

RUN = """
    --student.model biased_b --training.micro_batch_size 4
    --optimizer.weight_decay 0.5 --optimizer.lr_scale_patterns ^vocabulary,layers.1
    --optimizer.lr_scales 2,0.5
    --checkpoint.enable false --metrics.log_interval 1 --metrics.tensorboard false
    --metrics.progress false
"""


def test_equals_plain_torch(folder, parallel, tmp_path):
    """Warm-up, decay to 0, rates by pattern, no weight decay on norms and biases."""
    train([*arguments(folder, RUN), "--job.output_dir", str(tmp_path)], 1, tmp_path / "log")
    logged = read_metrics(tmp_path)
    assert len(logged) == STEPS
    training = Training(read_config(folder, RUN), parallel)
    plain = plain_training(training.config, training)
    for step in range(STEPS):
        found, metrics = plain(training.batch().micro_batches, step), logged[step + 1]
        assert metrics["lr"] == pytest.approx(training.config.optimizer.lr * plain.course(step))
        assert metrics["loss"] == pytest.approx(found.total.item(), rel=1e-5)
        # Eight steps of rounding: it is the sharpest of a step's figures.
        assert metrics["grad_norm"] == pytest.approx(found.norm.item(), rel=5e-5)


def test_bytes_cut_too_early_are_said_at_the_start(base_arguments, tmp_path):
    argv = [*base_arguments, "--job.output_dir", str(tmp_path), "--training.steps", "2"]
    argv += ["--student.target_tokenizer", f"{SPEC_A}:conversion=byte"]
    for length, said in ((96, 1), (400, 0)):
        folder = tmp_path / str(length)
        folder.mkdir()
        arguments = ["--training.max_student_length", str(length), "--job.output_dir", str(folder)]
        train([*argv, *arguments], 1, folder / "log")
        log, metrics = (folder / "log").read_text(), read_metrics(folder)[1]
        assert log.count(f"(training.max_student_length = {length}) than for the teacher") == said
        assert (metrics["data/short_share"] > 0.1) is bool(said)
        assert metrics["data/cut_share"] >= metrics["data/short_share"]
