"""``tokenkit compare``: its figures against eval-bpb and plain transformers; what cannot work."""

from __future__ import annotations

import json
import math

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.launch import SPEC_A, SPEC_B, train
from tests.models.tiny import save_tiny
from tokenkit.errors import TokenkitError
from tokenkit.tokenizers import load_tokenizer

SMALL = ["--max-documents", 6, "--own-tokens", 20, "--sample-tokens", 5, "--samples", 2]


@pytest.fixture(scope="module")
def folders(tmp_path_factory, base_arguments):
    """A teacher, a model with the same tokenizer, one with another, and a run from the teacher."""
    root = tmp_path_factory.mktemp("compare")
    for name, seed in (("teacher", 0), ("same", 1)):
        save_tiny(root / name, "llama", vocab_size=1505, seed=seed, max_position_embeddings=256)
        load_tokenizer(SPEC_A).save(root / name)
    arguments = [
        *base_arguments, "--student.model", str(root / "teacher"), "--training.steps", "4",
        "--job.output_dir", str(root / "run"), "--checkpoint.enable", "true",
    ]  # fmt: skip
    train(arguments, 1, root / "log")
    return root


@pytest.fixture(scope="module")
def prompts(tmp_path_factory):
    path = tmp_path_factory.mktemp("prompts") / "prompts.txt"
    path.write_text("The sea\ndef f(x):\n")
    return path


def bits_of(folder, tok, text: str) -> float:
    """Of a text behind BOS, by plain transformers."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = tok.encode_texts([text], as_text=True)[0].tolist()
    with torch.no_grad():
        logits = model(torch.tensor([[tok.ids[tok.text_bos], *ids]])).logits[0, :-1, : len(tok)]
    logprobs = logits.double().log_softmax(-1)[range(len(ids)), ids]
    return -logprobs.sum().item() / math.log(2)


def test_a_comparison_of_folders_and_a_run(script, folders, texts_file, prompts, tmp_path, capsys):
    output = tmp_path / "report"
    models = [folders / name for name in ("teacher", "same", "run")]
    script("compare", *models, "--data", texts_file, prompts, "--own-texts", 12,
           "--prompts", prompts, "--output", output, *SMALL)  # fmt: skip
    assert sorted(path.name for path in output.iterdir()) == [
        "index.html", "report.json", "report.md"
    ]  # fmt: skip
    report = json.loads((output / "report.json").read_text())
    assert list(report["models"]) == ["teacher", "same", "run"]
    assert report["teacher"] == "teacher"

    # The same as eval-bpb by hand.
    for name, spec in (("teacher", SPEC_A), ("same", SPEC_A)):
        script("eval_bpb", "--model", folders / name, "--tokenizer", spec, "--data", texts_file,
               "--max-documents", 6, "--json", tmp_path / "bpb.json")  # fmt: skip
        expected = json.loads((tmp_path / "bpb.json").read_text())
        found = report["bits_per_byte"]["texts.jsonl"]
        assert found["models"][name]["value"] == expected["bits_per_byte"]
        assert (found["documents"], found["bytes"]) == (expected["documents"], expected["bytes"])
    exported = tmp_path / "exported"
    script("export", "--run", folders / "run", "--output", exported)
    script("eval_bpb", "--model", exported, "--tokenizer", exported, "--data", texts_file,
           "--max-documents", 6, "--json", tmp_path / "bpb.json")  # fmt: skip
    expected = json.loads((tmp_path / "bpb.json").read_text())["bits_per_byte"]
    assert report["bits_per_byte"]["texts.jsonl"]["models"]["run"]["value"] == expected

    # What was kept: by hand, of the texts that the report shows.
    kept, tok = report["kept"], load_tokenizer(SPEC_A)
    assert kept["models"]["teacher"]["minus_teacher"] == {"value": 0.0, "stderr": 0.0}
    assert kept["texts"] == len(kept["written"]) >= 2
    sizes, lost = 0, 0.0
    for item in kept["written"]:
        whole, prompt = item["prompt"] + item["text"], item["prompt"]
        bits = [
            bits_of(folders / name, tok, whole) - bits_of(folders / name, tok, prompt)
            for name in ("teacher", "same")
        ]
        lost, sizes = lost + bits[1] - bits[0], sizes + len(item["text"].encode())
    found = kept["models"]["same"]["minus_teacher"]["value"]
    assert found == pytest.approx(lost / sizes, rel=1e-4)
    assert kept["models"]["same"]["minus_teacher"]["value"] > 0
    assert all(item["prompt"] in ("The sea", "def f(x):") for item in kept["written"])

    # The run: its curves, and what its rows began as.
    assert [step for step, _ in report["curves"]["run"]["loss"]] == [1, 2, 3, 4]
    assert report["rows"]["teacher"] is None and report["rows"]["run"]["input"]["rows"] > 700
    assert report["samples"][0]["prompt"] == "The sea" and len(report["samples"]) == 2
    page = (output / "index.html").read_text()
    assert "What was kept" in page and "Training" in page and "<svg" in page
    # Keys and values of two layers, two heads of eight: fp32.
    assert report["cost"]["teacher"]["cache_bytes_per_token"] == 2 * 2 * 2 * 8 * 4


def test_texts_of_the_teacher_are_drawn_from_the_seed(script, folders, texts_file, tmp_path):
    found = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        script("compare", folders / "same", folders / "teacher", "--teacher", folders / "teacher",
               "--data", texts_file, "--own-texts", 8, "--seed", seed,
               "--output", tmp_path / name, *SMALL)  # fmt: skip
        report = json.loads((tmp_path / name / "report.json").read_text())
        assert report["teacher"] == "teacher" and list(report["models"])[0] == "same"
        found.append(report["kept"])
    assert found[0] == found[1] != found[2]


def test_one_model_is_described_by_itself(script, folders, texts_file, tmp_path):
    output = tmp_path / "alone"
    script("compare", folders / "same", "--data", texts_file, "--start", folders / "teacher",
           "--output", output, *SMALL)  # fmt: skip
    report = json.loads((output / "report.json").read_text())
    assert report["kept"] is None and report["warnings"] == []
    assert report["rows"]["same"]["input"]["median_change"] > 0.5


@pytest.mark.slow
def test_tasks_have_standard_errors(script, folders, texts_file, tmp_path, monkeypatch):
    from tests.cli.conftest import ROOT

    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    given = ["--data", texts_file, "--include-path", "tests/assets/lm_eval", "--limit", 6, *SMALL]
    script("compare", folders / "teacher", "--output", tmp_path / "r", *given,
           "--tasks", "tokenkit_arithmetic")  # fmt: skip
    script("eval", "--model", folders / "teacher", "--tasks", "tokenkit_arithmetic", "--limit", 6,
           "--include-path", "tests/assets/lm_eval", "--output", tmp_path / "e.json")  # fmt: skip
    expected = json.loads((tmp_path / "e.json").read_text())["results"]["tokenkit_arithmetic"]
    found = json.loads((tmp_path / "r" / "report.json").read_text())["tasks"]
    assert found["tokenkit_arithmetic/acc"]["teacher"] == {
        "value": expected["acc,none"],
        "stderr": expected["acc_stderr,none"],
    }
    with pytest.raises(TokenkitError, match="no task 'arc_eassy'"):
        script("compare", folders / "teacher", "--output", tmp_path / "x", *given,
               "--tasks", "arc_eassy")  # fmt: skip
    assert not (tmp_path / "x").exists()


def test_what_cannot_work_is_one_line(script, folders, texts_file, tmp_path):
    broken = tmp_path / "broken.jsonl"
    broken.write_text("{")
    chats = tmp_path / "chats.jsonl"
    chats.write_text('{"messages": [{"role": "user", "content": "Hi"}]}\n')
    own = save_tiny(tmp_path / "own", "llama", vocab_size=1505)
    config = json.loads((own / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoModelForCausalLM": "own.Own"}}
    (own / "config.json").write_text(json.dumps(config))
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine").write_text("mine")
    teacher, same, run = (folders / name for name in ("teacher", "same", "run"))
    new = ["--output", tmp_path / "new"]
    data = ["--data", texts_file]
    cases = [
        ([teacher, same, *data, "--output", tmp_path / "taken"], "already exists"),
        ([teacher, tmp_path / "none", *data, *new], "does not exist"),
        ([teacher, teacher, *data, *new], "named twice"),
        ([teacher, own, *data, *new], "pass --trust-remote-code"),
        ([teacher, "--data", tmp_path / "none.jsonl", *new], "none.jsonl"),
        ([teacher, "--data", broken, *new], "broken.jsonl:1"),
        ([teacher, same, *data, *new, "--teacher", "x"], "--teacher 'x' is none of the models"),
        ([teacher, same, *data, *new, "--tokenizers", SPEC_A], "--tokenizers names 1 for 2"),
        ([teacher, *data, *new, "--prompts", chats], "only texts are read"),
        ([teacher, *data, *new, "--run", teacher], "not a run's output directory"),
        ([teacher, *data, *new, "--start", run / "none"], "does not exist"),
        ([teacher, *data, *new, "--start", teacher], "no other model compared"),
        ([teacher, *data, *new, "--include-path", "none"], "--include-path needs --tasks"),
        ([teacher, *data, *new, "--limit", 3], "--limit needs --tasks"),
        ([teacher, *data, *new, "--tasks", "t", "--limit", 0], "--limit: '0' is not a number"),
        (
            [teacher, *data, *new, "--tasks", "t", "--include-path", "none"],
            "'none' is not a folder",
        ),
        ([teacher, same, *data, *new, "--tokenizers", SPEC_A, SPEC_A, "--device", "x"], "--device"),
    ]
    for arguments, message in cases:
        with pytest.raises(TokenkitError, match=message) as caught:
            script("compare", *arguments)
        assert "\n" not in str(caught.value).strip()
    assert not (tmp_path / "new").exists() and (tmp_path / "taken" / "mine").exists()


def test_another_tokenizer_by_its_spec(script, folders, tmp_path, texts_file):
    save_tiny(tmp_path / "b", "llama", vocab_size=705, max_position_embeddings=256)
    script("compare", folders / "teacher", tmp_path / "b", "--tokenizers", SPEC_A, SPEC_B,
           "--data", texts_file, "--own-texts", 0, "--output", tmp_path / "r", *SMALL)  # fmt: skip
    report = json.loads((tmp_path / "r" / "report.json").read_text())
    assert report["kept"] is None and report["models"]["b"]["tokenizer"] == SPEC_B
