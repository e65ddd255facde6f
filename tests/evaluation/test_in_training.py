"""Evaluation during training: step 0, in between, the end and the teacher; on any layout."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM

from tests.evaluation.conftest import ROOT, TASKS
from tests.launch import SPEC_A, train
from tokenkit.evaluation.live import _picker
from tokenkit.evaluation.tasks import scores
from tokenkit.export.run import export_run
from tokenkit.tokenizers import load_tokenizer

BITS = "validation/bits_per_byte"
ACC = "eval/tokenkit_arithmetic/acc"
HYPERNET = [
    "--hypernet.architecture", "transformer", "--hypernet.num_heads", "4",
    "--hypernet.max_surface_length", "4", "--hypernet.num_layers", "1",
]  # fmt: skip
TP2 = ["--parallelism.tensor_parallel_degree", "2"]
MICRO = ["--training.micro_batch_size", "4"]
LORA = ["--student.train", "lora", "--lora.rank", "4"]


@pytest.fixture
def run(base_arguments, texts_file, tmp_path, monkeypatch):
    """Train and give the evaluations by step."""
    monkeypatch.chdir(ROOT)

    def start(name: str, world: int = 1, *extra: str) -> dict[int, dict[str, float]]:
        argv = [
            *base_arguments, "--training.steps", "3", "--data.validation", str(texts_file),
            "--eval.interval", "2", "--eval.max_documents", "6", "--eval.tasks", ",".join(TASKS),
            "--eval.tasks_interval", "1", "--eval.include_path", "tests/assets/lm_eval",
            "--eval.max_bytes", "64", "--eval.limit", "5", "--job.output_dir",
            str(tmp_path / name), *extra,
        ]  # fmt: skip
        train(argv, world, tmp_path / f"{name}.log")
        return evaluations(tmp_path / name)

    return start


def evaluations(folder: Path) -> dict[int, dict[str, float]]:
    rows = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return {row.pop("step"): row for row in rows if "loss" not in row}


def test_steps_teacher_and_gap_closed(run, tiny_llama, tmp_path):
    model = shutil.copytree(tiny_llama, tmp_path / "m")
    generation = {"repetition_penalty": 1.3, "eos_token_id": load_tokenizer(SPEC_A).eos_id}
    (model / "generation_config.json").write_text(json.dumps(generation))
    found = run("run", 1, "--checkpoint.enable", "true", "--student.model", str(model))
    assert list(found) == [0, 1, 2, 3]
    assert BITS not in found[1] and BITS in found[2] and BITS in found[3]
    start = found[0]
    for step in (2, 3):
        for name in (BITS, "eval/tokenkit_documents/bits_per_byte"):
            way = start[f"teacher/{name}"] - start[name]
            gap = (found[step][name] - start[name]) / way
            assert found[step][f"gap_closed/{name}"] == pytest.approx(gap)
    exported = tmp_path / "exported"
    export_run(tmp_path / "run", exported)
    for name, value in harness_scores(exported).items():
        assert found[3][f"eval/{name}"] == pytest.approx(value, abs=1e-5), name


def harness_scores(path: Path) -> dict[str, float]:
    """By lm-eval's own model."""
    from tokenkit.evaluation.tasks import find_tasks

    tasks = find_tasks(TASKS, "tests/assets/lm_eval")[1]
    model = HFLM(str(path), dtype="float32", device="cpu")
    results = simple_evaluate(
        model=model, tasks=TASKS[:2], task_manager=tasks, limit=5, bootstrap_iters=0
    )
    return {name: value for name, (value, _) in scores(results["results"]).items()}


@pytest.mark.parametrize(
    ("base", "world", "extra"),
    [
        ([], 2, MICRO),
        ([], 2, TP2),
        (LORA, 4, [*TP2, *MICRO]),
        ([*HYPERNET, *LORA], 2, MICRO),
    ],
    ids=["FSDP 2", "TP 2", "self-teacher, TP 2 x FSDP 2", "hypernet, FSDP 2"],
)
def test_all_layouts_find_the_same(run, base, world, extra):
    one, several = run("one", 1, *base), run("several", world, *base, *extra)
    assert list(one) == list(several)
    for step in one:
        assert one[step].keys() == several[step].keys()
        for name, value in one[step].items():
            if not name.startswith("gap_closed"):
                assert several[step][name] == pytest.approx(value, rel=1e-4), name


def test_a_resumed_run_still_knows_where_it_began(run, tmp_path):
    kept = ["--checkpoint.enable", "true"]
    first = run("run", 1, *kept)
    longer = run("run", 1, *kept, "--training.steps", "4")
    assert longer[0] == first[0] and f"gap_closed/{BITS}" in longer[4]


def test_an_evaluation_that_a_kill_took_is_made_up_for(run, tmp_path):
    """It is lost where a run is killed behind the checkpoint of its step."""
    kept = ["--checkpoint.enable", "true", "--checkpoint.interval", "2", "--training.steps", "4"]
    first = run("run", 1, *kept)
    file = tmp_path / "run" / "metrics.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    assert "loss" not in json.loads(lines[-1])
    file.write_text("".join(lines[:-1]) + '{"step": 4, "valid')
    for _ in range(2):  # and not a second time
        again = run("run", 2, *kept, "--training.micro_batch_size", "4")
        assert again.keys() == first.keys()
        assert again[4] == pytest.approx(first[4], rel=1e-4)
        assert file.read_text().count('"step": 4,') == 2  # the other one is of training


def test_tasks_alone_and_a_teacher_that_reads_no_text(run):
    found = run("run", 1, "--eval.interval", "0", "--eval.tasks_interval", "0",
                "--loss.names", "sft")  # fmt: skip
    assert list(found) == [0, 3]
    assert ACC in found[3] and not any("teacher" in n or "gap" in n for n in found[0] | found[3])


def test_an_unknown_task_is_refused_before_anything_is_written(run, tmp_path):
    with pytest.raises(
        AssertionError, match="eval.tasks: lm-eval has no task 'tokenkit_arithmetics'"
    ):
        run("run", 1, "--eval.tasks", "tokenkit_arithmetics")
    assert not (tmp_path / "run").exists()


def test_sampling_draws_from_what_is_likely():
    logits = torch.tensor([[0.0, 5.0, 4.0, -9.0]])
    assert _picker({"do_sample": False, "temperature": 0.0}, {})(logits, seed=0) == 1
    draw = _picker({"do_sample": True, "temperature": 1.0, "top_k": 2}, {})
    drawn = [draw(logits, seed=seed) for seed in range(400)]
    assert set(drawn) == {1, 2} and drawn.count(1) / 400 == pytest.approx(0.731, abs=0.06)
    assert drawn[:50] == [draw(logits, seed=seed) for seed in range(50)]
    with pytest.raises(Exception, match="generation_kwargs.num_beams of a task"):
        _picker({"num_beams": 2}, {})
