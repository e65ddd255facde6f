"""Settings that do nothing are said."""

from __future__ import annotations

import re

import pytest

from tokenkit.config import Config, load_config
from tokenkit.config.effects import without_effect
from tokenkit.shipped import recipes


def said(*arguments: str, needs_teacher: bool = True) -> list[str]:
    return list(without_effect(load_config(list(arguments)), needs_teacher))


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--lora.rank=8"], 'lora.rank = 8 has no effect without student.train = "lora"'),
        (["--compile.backend=eager"], "compile.backend = .* without compile.enable"),
        (["--hypernet.num_heads=8"], "hypernet.num_heads = 8 .* hypernet.architecture"),
        (["--tokenizer_sampler.texts=9"], "sampler.texts = 9 .* tokenizer_sampler.enable"),
        (["--checkpoint.enable=false", "--checkpoint.interval=9"],
         "checkpoint.interval = 9 .* checkpoint.enable"),
        (["--eval.batch_size=9"], "eval.batch_size = 9 .* eval.interval or eval.tasks"),
        (["--eval.num_fewshot=2"], "eval.num_fewshot = 2 .* without eval.tasks"),
        (["--eval.limit=2"], "eval.limit = 2 .* without eval.tasks"),
        (["--eval.include_path=x"], "eval.include_path = .* without eval.tasks"),
        (["--eval.apply_chat_template=true"], "apply_chat_template = true .* eval.tasks"),
        (["--eval.tasks_interval=2"], "eval.tasks_interval = 2 .* without eval.tasks"),
        (["--checkpoint.initial_load_optimizer=true"],
         "_optimizer = true .* without checkpoint.initial_load"),
        (["--checkpoint.export_dtype=bfloat16"], "export_dtype = .* checkpoint.last_save_model"),
        (["--checkpoint.enable=false", "--checkpoint.interval_minutes=9"],
         "checkpoint.interval_minutes = 9.0 .* checkpoint.enable"),
        (["--checkpoint.enable=false", "--checkpoint.last_save_model_only=true"],
         "checkpoint.last_save_model_only = true .* checkpoint.enable"),
        (["--lr_scheduler.warmup_steps=100"], "warmup_steps = 100 goes beyond .* = 100"),
        (["--lr_scheduler.prefix_steps=60", "--lr_scheduler.warmup_steps=40"],
         "warmup_steps = 40 goes beyond"),
        (["--lr_scheduler.prefix_steps=100"], "prefix_steps = 100 leaves none of training.steps"),
        (["--lr_scheduler.prefix_lr=1"], "prefix_lr = 1.0 .* lr_scheduler.prefix_steps"),
        (["--profiling.enable=true", "--profiling.start_step=98"], r"trace of \[profiling\] ends"),
        (["--student.embedding_init=mean"], "embedding_init = .* student.target_tokenizer"),
    ],
)  # fmt: skip
def test_said(arguments, line):
    (found,) = said(*arguments)
    assert re.search(line, found), found


def test_one_line_for_one_cause():
    (line,) = said("--eval.max_documents=3", "--data.validation=x.txt")
    assert line.endswith("have no effect without eval.interval")
    assert "eval.max_documents = 3" in line and 'data.validation = ["x.txt"]' in line


def test_a_teacher_that_no_loss_reads():
    lines = said("--teacher.model=x", needs_teacher=False)
    assert lines == ["teacher.model has no effect: loss.names has no loss that reads a teacher"]
    assert not said("--teacher.model=x")


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--student.train=lora", "--lora.rank=8"],
        ["--eval.tasks=x", "--eval.batch_size=9", "--eval.max_bytes=99", "--eval.limit=2"],
        ["--lr_scheduler.warmup_steps=99"],
        ["--training.steps=0", "--lr_scheduler.warmup_steps=5"],
        ["--profiling.enable=true", "--profiling.start_step=97"],
    ],
)
def test_nothing_to_say(arguments):
    assert not said(*arguments)


def test_recipes_hold_nothing_without_effect():
    for name in recipes():
        lines = said("--job.config_file", name)
        assert not lines, f"{name}: {lines}"


def test_defaults_are_silent():
    assert not list(without_effect(Config(), True))
