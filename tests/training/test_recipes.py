"""Recipes of the hub: whole shapes on the meta device, and a step of tiny stand-ins."""

from __future__ import annotations

import re

import pytest
import torch

from tests.launch import SPEC_A, TOKENIZERS
from tests.models.tiny import save_tiny
from tests.training.in_process import Training
from tokenkit.config import Config, load_config, validate
from tokenkit.losses import build_losses, need_teacher
from tokenkit.planning.known import known
from tokenkit.planning.models import build_models, open_shapes
from tokenkit.shipped import recipes
from tokenkit.tokenizers.spec import TokenizerSpec, parse_spec
from tokenkit.training.student import build_student, open_student_source
from tokenkit.training.tokenizers import load_tokenizers

FAMILIES = {  # of tokenizers, by architecture
    "llama": {"Llama3", "TinyLlama", "SmolLM2"},
    "qwen2": {"Qwen2"},
    "qwen3": {"Qwen3"},
    "gemma2": {"Gemma2"},
    "gemma3_text": {"Gemma3"},
}
STAND_INS = {
    **{"Llama3": "bpe_a", "Qwen2": "bpe_b", "Qwen3": "bpe_b"},
    **{"Gemma2": "spm", "Gemma3": "spm", "TinyLlama": "spm"},
}
HUB = [name for name in recipes() if not re.search("debug|quickstart", name)]


def load(name: str) -> Config:
    return load_config(["--job.config_file", str(recipes()[name])])


def specs(config: Config) -> dict[str, TokenizerSpec]:
    """Each tokenizer that a recipe names."""
    named = {
        "student.tokenizer": config.student.tokenizer,
        "student.target_tokenizer": config.student.target_tokenizer,
        "teacher.tokenizer": config.teacher.tokenizer,
    }
    return {key: parse_spec(spec) for key, spec in named.items() if spec}


def stand_in(spec: TokenizerSpec) -> str:
    """A small tokenizer, taken for the same family and with the same options."""
    own = spec.source or ("Qwen2" if spec.path.startswith("Qwen") else "Llama3")
    text = str(spec)
    assert text.startswith(spec.path)
    return f"{TOKENIZERS}/{STAND_INS[own]}{text[len(spec.path) :]}"


def test_there_are_recipes_of_current_families():
    architectures = {known(load(name).student.model).model_type for name in HUB}
    assert architectures >= {"llama", "qwen3", "gemma2", "gemma3_text"}
    for kind in ("byte", "zett_hypernet_qwen3", "70b_to_8b"):
        assert any(kind in name for name in HUB)


@pytest.mark.parametrize("name", HUB)
def test_families_are_those_of_the_architectures(name):
    config = load(name)
    found = specs(config)
    for side in ("student", "teacher"):
        model, spec = getattr(config, side).model, found.get(f"{side}.tokenizer")
        assert not model or known(model) is not None, f"{model} is not in the planner's table"
        if model and spec and spec.source:
            assert spec.source in FAMILIES[known(model).model_type]
    for spec in found.values():
        published = known(spec.path)
        if published and spec.source:
            assert spec.source in FAMILIES[published.model_type]
    # The student goes on speaking as it did.
    target = found.get("student.target_tokenizer", found["student.tokenizer"])
    assert (target.target or target.source) in ("", found["student.tokenizer"].source)


@pytest.mark.parametrize("name", HUB)
def test_header_says_what_to_expect(name):
    header = recipes()[name].read_text().split("[job]")[0]
    planned = re.search(r"Planned \(tokenkit plan\): \d+ GiB", header)
    assert planned or load(name).hypernet.architecture
    assert re.search("not measured|[Nn]ot yet run|Reached", header)  # nothing is claimed


@pytest.mark.parametrize("name", HUB)
def test_whole_shapes(name):
    """Built on the meta device in full size: layers, adapters, vocabulary."""
    config = load(name)
    if config.hypernet.architecture:
        pytest.skip("the planner does not know hypernetworks")
    models = build_models(config, open_shapes(config), torch.bfloat16)
    trained = [p for p in models.student.parameters() if p.requires_grad]
    assert trained and (models.teacher is not None) == need_teacher(config)
    rows = models.student.vocabulary.input.shape[0]
    assert rows % config.student.pad_vocab_multiple == 0


@pytest.mark.parametrize("name", HUB)
def test_a_step_in_small(name, parallel, folder, tmp_path):
    config = load(name)
    for side in (config.student, config.teacher):
        if side.model:
            family = known(side.model).model_type
            tied = known(side.model).values["tie_word_embeddings"]
            side.model = str(save_tiny(tmp_path / side.model.replace("/", "_"), family,
                                       vocab_size=1600, tie_word_embeddings=tied))  # fmt: skip
    for key, spec in specs(config).items():
        section, field = key.split(".")
        setattr(getattr(config, section), field, stand_in(spec))
    if not specs(config)["student.tokenizer"].source:
        config.student.tokenizer = SPEC_A
    config.data.train, config.data.num_workers = [str(folder / "rows.jsonl")], 0
    config.data.validation, config.eval.interval = [], 0
    training = config.training
    training.batch_size, training.micro_batch_size = 4, 2
    training.max_student_length, training.max_teacher_length = 64, 48
    training.dtype, config.compile.enable = "float32", False
    config.lora.rank, config.student.attn_implementation = 4, ""
    validate(config, 1)
    if config.hypernet.architecture:
        toks = load_tokenizers(config, True)
        source = open_student_source(config, toks)
        losses = build_losses(config, toks.student, toks.teacher, source.width, source.width)
        student = build_student(config, source, toks, parallel, losses)
        assert any(p.requires_grad for p in student.vocabulary.parameters())
        return
    run = Training(config, parallel)
    before = {key: p.detach().clone() for key, p in run.parameters.items()}
    found = run(run.batch(), config.lr_scheduler.warmup_steps)
    assert found["loss"].isfinite() and not found["same/skipped"]
    assert any(not torch.equal(p, before[key]) for key, p in run.parameters.items())
