"""Impossible settings of hypernetworks and sampled tokenizers are refused by name."""

from __future__ import annotations

import pytest

from tokenkit.config import config_from_dict, validate
from tokenkit.errors import ConfigError

NETWORK = {"hypernet": {"architecture": "transformer"}}
SAMPLED = {**NETWORK, "tokenizer_sampler": {"enable": True}}


def check(settings: dict) -> None:
    base = {
        "student": {"model": "org/name", "tokenizer": "org/name"},
        "data": {"train": ["hf:org/data"]},
    }
    validate(config_from_dict({**base, **settings}), 1)


def student(**values) -> dict:
    return {"student": {"model": "org/name", "tokenizer": "org/name", **values}}


@pytest.mark.parametrize(
    "settings",
    [
        NETWORK,
        SAMPLED,
        {**SAMPLED, **student(train="none", train_embeddings=False)},
        {**NETWORK, **student(target_tokenizer="org/other")},
        {**SAMPLED, "loss": {"names": ["sft", "lexical"]}},
        {"hypernet": {"architecture": "linear", "residual": False, "identity_steps": 3}},
    ],
)
def test_good(settings):
    check(settings)


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        ({"hypernet": {"identity_steps": 3}}, ["hypernet.identity_steps = 3", "architecture"]),
        ({"tokenizer_sampler": {"enable": True}}, ["tokenizer_sampler.enable", "architecture"]),
        (
            {**NETWORK, "loss": {"names": ["sft", "lexical"], "aggregation": "gradmag"}},
            ['loss.aggregation = "gradmag"', "approx_gradmag"],
        ),
        (
            {"hypernet": {"architecture": "linear", "residual": False, "identity_steps": 3},
             "lr_scheduler": {"prefix_steps": 2}},
            ["lr_scheduler.prefix_steps = 2", "hypernet.identity_lr"],
        ),
        (
            {"hypernet": {"architecture": "linear", "residual": False, "identity_steps": 100}},
            ["hypernet.identity_steps = 100", "training.steps = 100"],
        ),
        (
            {"hypernet": {"architecture": "transformer", "identity_steps": 3}},
            ["hypernet.identity_steps = 3", "hypernet.residual = true", "from the start"],
        ),
        (
            {"hypernet": {"architecture": "identity", "residual": False, "identity_steps": 3}},
            ["hypernet.identity_steps = 3", 'hypernet.architecture = "identity"'],
        ),
        (
            {"hypernet": {"architecture": "linear", "byte_embeddings": True}},
            ["hypernet.byte_embeddings", "tokenizer_sampler.enable"],
        ),
        ({"hypernet": {"architecture": "mlp"}}, ["hypernet.architecture", "transformer"]),
        ({**NETWORK, "eval": {"tokenizers": ["org/x"]}}, ["eval.tokenizers", "enable"]),
        (
            {**NETWORK, "tokenizer_sampler": {"enable": True, "size_min": 9, "size_max": 8}},
            ["size_min = 9", "size_max = 8"],
        ),
        (
            {**SAMPLED, **student(target_tokenizer="org/other")},
            ['student.target_tokenizer = "org/other"', "tokenizer_sampler.enable"],
        ),
        ({**SAMPLED, **student(tokens_to_add=["<a>"])}, ["student.tokens_to_add"]),
        (
            {**SAMPLED, "loss": {"names": ["lexical"]},
             "teacher": {"model": "org/other", "tokenizer": "org/other"}},
            ['"lexical"', 'teacher.model = "org/other"'],
        ),
        ({**SAMPLED, "loss": {"names": ["kd"]}}, ['"kd"', "one fixed tokenizer"]),
        (
            {"hypernet": {"architecture": "identity"},
             **student(train="none", train_embeddings=False)},
            ["nothing to train"],
        ),
        (
            {**SAMPLED, "eval": {"tokenizers": ["./missing"], "interval": 1},
             "data": {"train": ["hf:a/b"], "validation": ["hf:a/b"]}},
            ["eval.tokenizers", '"./missing"', "does not exist"],
        ),
    ],
)  # fmt: skip
def test_bad(settings, parts):
    with pytest.raises(ConfigError) as error:
        check(settings)
    for part in parts:
        assert part in str(error.value)
