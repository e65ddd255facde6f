"""The command: a file of models, tasks, and what is wrong with it in one line."""

from __future__ import annotations

import argparse
import json
from contextlib import nullcontext
from pathlib import Path

import pytest

from tests.evaluation.conftest import save_model
from tokenkit.cli.eval_lockstep import ModelSettings, open_ensemble
from tokenkit.errors import ConfigError, ModelError, TokenizerError

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> list[Path]:
    root = tmp_path_factory.mktemp("lockstep")
    return [
        save_model(root / "a", "llama", "bpe_a:source=Llama3"),
        save_model(root / "b", "gemma2", "bpe_a:source=Llama3:target=Qwen2"),
        save_model(root / "c", "llama", "bpe_b:source=Qwen2"),
    ]


def write(path: Path, models, ensemble: str = "", extra: str = "") -> Path:
    tables = "\n".join(f'[[models]]\nmodel = "{model}"\n{extra}' for model in models)
    path.write_text(f"[ensemble]\n{ensemble}\n{tables}\n")
    return path


@pytest.mark.parametrize(("members", "combine"), [([0, 1], "mean_logits"), ([0, 2], "mined_pivot")])
def test_two_models_run_tasks(script, models, tmp_path, monkeypatch, capsys, members, combine):
    monkeypatch.chdir(ROOT)
    settings = 'tasks = ["tokenkit_*"]\ninclude_path = "tests/assets/lm_eval"\nlimit = 3\n'
    config = write(
        tmp_path / "e.toml", [models[i] for i in members], f'{settings}combine = "{combine}"'
    )
    output = tmp_path / "r.json"
    script("eval_lockstep", "--config", config, "--limit", 2, "--output", output, "--log-samples")
    assert "tokenkit_documents" in capsys.readouterr().out
    found = json.loads(output.read_text())
    assert found["n-samples"]["tokenkit_arithmetic"]["effective"] == 2
    assert found["results"]["tokenkit_documents"]["bits_per_byte,none"] > 0
    assert len((tmp_path / "r.samples.jsonl").read_text().splitlines()) == 6


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("models = 3", "names no models"),
        ("[ensemble]", "names no models"),
        ("[[models]]\nmodl = 'a'", "no key 'modl'; did you mean 'model'"),
        ("[[models]]\nweight = 2", "has no model = "),
        ("[[models]]\nmodel = 'a'\nweight = '2'", "weight = '2': expected a number"),
        ("[[models]]\nmodel = 'a'\nweight = 0", "weight = 0 is not a finite number above 0"),
        ("[[models]]\nmodel = 'a'\nweight = nan", "weight = nan is not a finite number above 0"),
        ("[[models]]\nmodel = 'a'\nstep = 2.5", r"step = 2\.5 is not an integer"),
        (
            "[[models]]\nmodel = 'a'\n[ensemble]\ntask = ['x']",
            "no key 'task'; did you mean 'tasks'",
        ),
        ("[[models]]\nmodel = 'a'", "no tasks: name some"),
        ("[[models", "e.toml: "),
        ("[other]", "unknown table 'other'"),
    ],
)
def test_bad_files(script, tmp_path, content, message):
    (tmp_path / "e.toml").write_text(content)
    with pytest.raises(ConfigError, match=message):
        script("eval_lockstep", "--config", tmp_path / "e.toml")


def test_bad_ensembles(script, models, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    task = ["--tasks", "tokenkit_arithmetic", "--include-path", "tests/assets/lm_eval"]
    config = write(tmp_path / "e.toml", [models[0], models[2]])
    with pytest.raises(TokenizerError, match="such as '.*'; transfer one"):
        script("eval_lockstep", "--config", config, *task)
    config = write(tmp_path / "e.toml", [models[0]], 'combine = "mean_probs"')
    with pytest.raises(ConfigError, match="'mean_probs' is none of.*did you mean 'mean_prob'"):
        script("eval_lockstep", "--config", config, *task)


@pytest.mark.parametrize("made", [True, False])
def test_code_of_a_folder_that_was_made_of_a_run_is_trusted(models, monkeypatch, made):
    """The folder of a byte-level model brings tokenkit's own code; that of others is not run."""
    asked = []

    def open_folder(name, dtype, trust_remote_code):
        asked.append(trust_remote_code)
        raise ModelError("enough")

    monkeypatch.setattr("tokenkit.evaluation.lm_eval_model.open_folder", open_folder)
    monkeypatch.setattr(
        "tokenkit.export.run.opened_model",
        lambda model, step: nullcontext("/made" if made else model),
    )
    args = argparse.Namespace(device="cpu", dtype="auto", trust_remote_code=False)
    with pytest.raises(ModelError, match="enough"):
        open_ensemble(args, [ModelSettings(model=str(models[0]))], "mean_prob")
    assert asked == [made]
