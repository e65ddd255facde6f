"""Mixtures of gradients in a whole step: what is summed, and what a weight does."""

from __future__ import annotations

import pytest

from tests.launch import read_metrics, train


@pytest.fixture
def first_step(base_arguments, tmp_path):
    """Metrics of a run's first step; ``grad_norm`` is that of the mixed gradient."""

    def run(name: str, *overrides: str) -> dict[str, float]:
        folder = tmp_path / name
        argv = [*base_arguments, "--training.steps", "1", "--job.output_dir", str(folder)]
        folder.mkdir()
        train([*argv, *overrides], 1, folder / "log")
        return read_metrics(folder)[1]

    return run


def test_gradients_are_summed(first_step):
    """With a limit that nothing reaches, the step is a sum: twice the mean of two losses."""
    weights = ["--loss.weights", "0.5,2.0"]
    mean = first_step("mean", *weights)
    mixed = first_step("mixed", *weights, "--loss.aggregation", "gradclip:1e9")
    assert mixed["grad_norm"] == pytest.approx(2 * mean["grad_norm"], rel=1e-4)
    assert mixed["loss"] == pytest.approx(2 * mean["loss"], rel=1e-5)


@pytest.mark.parametrize(("aggregation", "norm"), [("gradclip:0.01", 0.01), ("gradmag", 3.0)])
def test_weights_come_before_clipping_and_survive_gradmag(first_step, aggregation, norm):
    one = ["--loss.names", "sft", "--loss.weights", "3.0", "--loss.aggregation", aggregation]
    assert first_step("one", *one)["grad_norm"] == pytest.approx(norm, rel=1e-4)
