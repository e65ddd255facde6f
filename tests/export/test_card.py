"""Folders ready for the hub: model card, PEFT's adapter, and a push that happens whole or not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from tests.launch import SPEC_B, train
from tokenkit.config import load_config
from tokenkit.errors import ConfigError, TokenkitError
from tokenkit.export.adapter import export_adapter
from tokenkit.export.run import export_run

LICENCE = """---
license: other
license_name: tiny-licence
license_link: https://example.org/licence
language: [en, de]
---
# A tiny model
"""
LORA = ["--student.train", "lora", "--lora.rank", "4", "--lora.alpha", "8",
        "--lora.targets", "all-linear"]  # fmt: skip


def start(folder: Path, arguments: list[str], *more: str) -> Path:
    argv = [*arguments, "--checkpoint.enable", "true", "--job.output_dir", str(folder / "run"),
            "--training.steps", "2", *more]  # fmt: skip
    train(argv, 1, folder / "log")
    return folder / "run"


@pytest.fixture(scope="module")
def base(tmp_path_factory, tiny_llama) -> Path:
    folder = shutil.copytree(tiny_llama, tmp_path_factory.mktemp("card") / "base")
    (folder / "README.md").write_text(LICENCE)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory, base_arguments, texts_file, base) -> Path:
    """Adapters, another tokenizer, and bits per byte on the way."""
    return start(
        tmp_path_factory.mktemp("moved"), base_arguments, *LORA, "--student.model", str(base),
        "--data.validation", str(texts_file), "--eval.interval", "2", "--eval.max_documents", "4",
    )  # fmt: skip


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "x"
    export_run(run, folder, name="me/moved", base_model="org/base")
    return folder


def test_the_card_is_one_that_the_hub_reads(exported, run):
    card = ModelCard.load(exported / "README.md")
    data = card.data
    assert data.base_model == "org/base" and data.library_name == "transformers"
    assert data.license == "other" and data.license_name == "tiny-licence"
    assert data.language == ["en", "de"] and "tokenkit" in data.tags
    assert 'from_pretrained("me/moved")' in card.text and "tiny-licence" in card.text

    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    bits = {row["step"]: row for row in rows if "validation/bits_per_byte" in row}
    known = (
        bits[0]["teacher/validation/bits_per_byte"],
        *(bits[step]["validation/bits_per_byte"] for step in (0, 2)),
    )
    assert " | ".join(f"{value:.3f}" for value in known) in card.text
    assert str(run.parent) not in card.text and "/tmp" not in card.text


def test_its_toml_is_the_run_s(exported, run, tmp_path):
    text = ModelCard.load(exported / "README.md").text
    (tmp_path / "x.toml").write_text(text.partition("```toml\n")[2].partition("```")[0])
    shown, whole = (
        load_config(["--job.config_file", str(path)])
        for path in (tmp_path / "x.toml", run / "config.toml")
    )
    assert shown.training == whole.training and shown.lora == whole.lora
    assert shown.student.target_tokenizer == SPEC_B.rpartition("/")[2]


def peft_model(adapter: Path, base: Path):
    peft = pytest.importorskip("peft", reason="peft is not installed")
    model = AutoModelForCausalLM.from_pretrained(base, dtype="float32")
    code = (adapter / "README.md").read_text()
    if "resize_token_embeddings" in code:
        rows = int(code.partition("resize_token_embeddings(")[2].partition(",")[0])
        model.resize_token_embeddings(rows, mean_resizing=False)
    return peft.PeftModel.from_pretrained(model, adapter)


@pytest.mark.parametrize("kept", [False, True], ids=["another tokenizer", "its own tokenizer"])
def test_peft_loads_the_adapter(run, base, base_arguments, tmp_path, kept):
    if kept:
        own = ["--student.target_tokenizer=", "--student.train_embeddings", "false"]
        own += ["--loss.names", "sft", "--student.model", str(base)]
        run = start(tmp_path, base_arguments, *LORA, *own)
    export_adapter(run, tmp_path / "adapter", dtype=torch.float32)
    export_run(run, tmp_path / "whole", dtype=torch.float32)
    whole = AutoModelForCausalLM.from_pretrained(tmp_path / "whole", dtype="float32")
    adapted = peft_model(tmp_path / "adapter", base)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "adapter")
    ids = tokenizer("def f(x): return the sea", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        torch.testing.assert_close(adapted(ids).logits, whole(ids).logits, atol=1e-4, rtol=1e-4)
    made = GenerationConfig.from_pretrained(tmp_path / "adapter")
    assert made.eos_token_id == whole.generation_config.eos_token_id


def test_the_adapter_has_peft_s_names_and_adds_up(run, base, tmp_path):
    """By PEFT's documented format: W + alpha / r * B A."""
    export_adapter(run, tmp_path / "adapter", dtype=torch.float32)
    export_run(run, tmp_path / "whole", dtype=torch.float32)
    state = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["peft_type"] == "LORA" and config["task_type"] == "CAUSAL_LM"
    assert (config["r"], config["lora_alpha"]) == (4, 8.0)
    before = AutoModelForCausalLM.from_pretrained(base, dtype="float32").state_dict()
    after = AutoModelForCausalLM.from_pretrained(tmp_path / "whole", dtype="float32").state_dict()
    stems = {name.removesuffix(".lora_A.weight") for name in state if "lora_A" in name}
    assert {stem.rpartition(".")[2] for stem in stems} == set(config["target_modules"])
    for stem in stems:
        name = f"{stem.removeprefix('base_model.model.')}.weight"
        a, b = (state[f"{stem}.lora_{side}.weight"] for side in "AB")
        torch.testing.assert_close(after[name], before[name] + 8.0 / 4 * b @ a)
    rest = {n.removeprefix("base_model.model.") for n in state if ".lora_" not in n}
    assert rest == {"model.embed_tokens.weight", "lm_head.weight"}
    for name in rest:
        assert torch.equal(state[f"base_model.model.{name}"], after[name])


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ([], 'student.train = "full", no adapter; leave out --adapter'),
        ([*LORA, "--student.init", "random"], 'student.init = "random" has no base model'),
    ],
)
def test_runs_without_an_adapter_are_refused(base_arguments, tmp_path, more, words):
    run = start(tmp_path, base_arguments, *more)
    with pytest.raises(ConfigError, match=words):
        export_adapter(run, tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()


class Hub:
    """Stands for the hub's client; ``fails`` names the call that does."""

    def __init__(self, fails: str = "", exists: bool = False, private: bool = True) -> None:
        self.fails, self.exists, self.private, self.calls = fails, exists, private, []

    def __getattr__(self, name):
        def call(*args, **options):
            if name == self.fails:
                raise OSError("no network")
            self.calls.append((name, args, options))
            answers = {
                "repo_exists": self.exists,
                "repo_info": SimpleNamespace(private=self.private),
                "create_repo": SimpleNamespace(url="https://hub/me/x"),
            }
            return answers.get(name)

        return call

    def changes(self) -> list[str]:
        return [name for name, *_ in self.calls if name in ("create_repo", "upload_folder")]


def push(script, monkeypatch, hub, run, *arguments):
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: hub)
    script("export", "--run", run, *arguments)


def test_a_push(script, monkeypatch, run, tmp_path):
    hub = Hub()
    push(script, monkeypatch, hub, run, "--output", tmp_path / "x", "--push", "me/x")
    assert hub.changes() == ["create_repo", "upload_folder"]
    calls = {name: (args, options) for name, args, options in hub.calls}
    assert calls["create_repo"] == (("me/x",), {"private": True, "exist_ok": True})
    sent = calls["upload_folder"][1]
    assert sent["repo_id"] == "me/x" and Path(sent["folder_path"]) == tmp_path / "x"
    assert 'from_pretrained("me/x")' in (tmp_path / "x" / "README.md").read_text()


@pytest.mark.parametrize(
    ("hub", "arguments", "words"),
    [
        (Hub("whoami"), ["--push", "me/x"], "the hub does not know you"),
        (Hub("repo_exists"), ["--push", "me/x"], "no network"),
        (Hub(exists=True, private=False), ["--push", "me/x"], "is public: give --public too"),
        (Hub(), ["--push", "me/x/y"], "expected owner/name"),
        (Hub(), ["--push", "me/x", "--step", "77"], "no checkpoint of step 77"),
        (Hub(), ["--public"], "--public is of --push"),
    ],
    ids=["not logged in", "no network", "public", "bad name", "no export", "public alone"],
)
def test_nothing_is_pushed_if_anything_fails(
    script, monkeypatch, run, tmp_path, hub, arguments, words
):
    with pytest.raises(TokenkitError, match=words):
        push(script, monkeypatch, hub, run, "--output", tmp_path / "x", *arguments)
    assert not hub.changes()


def test_an_upload_that_fails_leaves_the_folder(script, monkeypatch, run, tmp_path):
    with pytest.raises(TokenkitError, match="is whole: `hf upload me/x"):
        hub = Hub("upload_folder")
        push(script, monkeypatch, hub, run, "--output", tmp_path / "x", "--push", "me/x")
    assert (tmp_path / "x" / "model.safetensors").is_file()
