"""Bytes that a plan says are sent in a step, beside what two ranks send."""

from __future__ import annotations

import json

import pytest
import torch

from tests.launch import train
from tests.planning.sent import FILE
from tests.training.small_runs import arguments
from tokenkit.config import load_config
from tokenkit.planning.layout import Layout
from tokenkit.planning.models import build_models, open_shapes
from tokenkit.planning.placement import Placement
from tokenkit.planning.speed import count_messages

CUT = "--training.accumulate sharded --parallelism.frozen sharded --training.steps 2"
BALANCED = "--loss.aggregation approx_gradmag_preserve_mag --loss.balance_interval 1"
TEACHER = "--teacher.parallelism.tensor_parallel_degree 2 --teacher.micro_batch_size 4"
CASES = {
    "sharded": "",
    "kept": "--parallelism.reshard_after_forward false",
    "probes": BALANCED,
    "probes_kept": f"{BALANCED} --parallelism.reshard_after_forward false",
    "mixture": "--loss.aggregation pcgrad",
    "joined": "--teacher.micro_batch_size 4",
    "context": "--parallelism.context_parallel_degree 2",
    "context_again": "--parallelism.context_parallel_degree 2 --activation_checkpoint.mode full",
    "teacher": TEACHER,
}


@pytest.fixture(scope="module")
def full_rows(folder_of_models):
    """Rows that are longer than a row may be."""
    path = folder_of_models / "long.jsonl"
    text = "The quick brown fox jumps over the lazy dog. " * 40
    path.write_text("".join(f"{json.dumps({'text': f'{n} {text}'})}\n" for n in range(32)))
    return str(path)


@pytest.mark.parametrize("case", CASES)
def test_sent_is_planned(case, folder_of_models, full_rows, tmp_path):
    options = f"{CUT} --training.micro_batch_size 2 {CASES[case]}"
    argv = arguments(folder_of_models, options)
    argv += ["--data.train", full_rows, "--job.output_dir", str(tmp_path / "run")]
    train(argv, 2, tmp_path / "log", program="tests.planning.sent")
    sent = json.loads((tmp_path / "run" / FILE).read_text())[-1]
    config = load_config(argv)
    layout = Layout.of(config, 2)
    models = build_models(config, open_shapes(config), torch.float32, layout)
    placement = Placement.of(config, models, layout, "cpu")
    planned = count_messages(config, models, layout, placement)
    assert sum(vars(planned).values()) == pytest.approx(sent, rel=0.03), vars(planned)
