"""What ranks say to each other in an optimizer step, counted."""

from __future__ import annotations

import json

import pytest

from tests.launch import train
from tests.models.tiny import save_tiny
from tests.parallelisms.counted import FILE

LAYERS = 12
LORA = [
    "--student.train", "lora", "--lora.rank", "4",
    "--loss.aggregation", "approx_gradmag_preserve_mag",
]  # fmt: skip
FROZEN = ["--parallelism.frozen"]
UNSHARDED = ["--training.accumulate", "unsharded"]
SHARDED = ["--training.accumulate", "sharded"]
GATHERS, REDUCTIONS, SUMS = "allgather_base", "reduce_scatter_base", "allreduce"


@pytest.fixture(scope="module")
def step(base_arguments, tmp_path_factory):
    """Counts of a step on two ranks, not the first, of a student of twelve layers."""
    folder = tmp_path_factory.mktemp("messages")
    options = {"num_hidden_layers": LAYERS, "tie_word_embeddings": True}
    model = save_tiny(folder / "model", "llama", vocab_size=1505, **options)

    def counts(*overrides: str) -> dict[str, int]:
        run = folder / "run"
        argv = [
            *base_arguments, "--student.model", str(model), "--training.steps", "2",
            "--job.output_dir", str(run), "--checkpoint.overwrite", "true", *overrides,
        ]  # fmt: skip
        train(argv, 2, folder / "log", program="tests.parallelisms.counted")
        return json.loads((run / FILE).read_text())[-1]

    return counts


def test_once_a_step_with_accumulation(step):
    """One gather of each unit, however many passes there are; one reduction of what is trained.

    Units are the layers, the vocabulary and what is left, a norm, which LoRA does not train.
    """
    found = step(*LORA, *UNSHARDED, "--training.micro_batch_size", "1", *FROZEN, "sharded")
    assert found[GATHERS] <= 1.15 * (LAYERS + 2)
    assert found[REDUCTIONS] <= 1.15 * (LAYERS + 1)


def test_replicated_weights_are_never_sent(step):
    """Adapters of each layer and the vocabulary are."""
    found = step(*LORA, *UNSHARDED, "--training.micro_batch_size", "2", *FROZEN, "replicated")
    assert found[GATHERS] == found[REDUCTIONS] == LAYERS + 1
    frozen = ["--student.train", "none", "--loss.names", "sft"]
    found = step(*frozen, *UNSHARDED, "--training.micro_batch_size", "2", *FROZEN, "replicated")
    assert found[GATHERS] == found[REDUCTIONS] == 1


def test_untied_matrices_are_reduced_apart(step):
    untied = ["--loss.names", "sft", "--student.output_embeddings", "untie"]
    found = step(*untied, *UNSHARDED, "--training.micro_batch_size", "2")
    assert found[GATHERS] == LAYERS + 2
    assert found[REDUCTIONS] == LAYERS + 3


def test_sharded_gathers_in_every_pass(step):
    """Forward, and backward but for the last layer and what is left over."""
    found = step("--loss.names", "sft", "--training.micro_batch_size", "2", *SHARDED)
    assert found[GATHERS] <= 2 * (2 * LAYERS + 1)
    assert found[REDUCTIONS] == 2 * (LAYERS + 2)


def test_measured_gradients_leave_layers_gathered_ahead(step):
    """Backward, no layer is waited for: each is gathered while the one after it is at work.

    Norms of all losses are one message, beside those of counts, of the gradient and of skipping.
    """
    found = step(*LORA, "--training.micro_batch_size", "4", *SHARDED)
    assert found["waited_for"] == 0
    assert found[SUMS] == 4
