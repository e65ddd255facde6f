"""The command line of zero-shot transfer: methods, pruning, extension, bits per byte, bad input."""

from __future__ import annotations

import json
import re

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.launch import SPEC_A, SPEC_B
from tests.models.tiny import save_tiny
from tokenkit.errors import TokenkitError
from tokenkit.tokenizers import load_tokenizer


@pytest.fixture
def zett(script, tiny_llama, tmp_path, capsys):
    """Run the script on the tiny Llama; returns the output folder and what was printed."""

    def run(*arguments, model=tiny_llama):
        output = tmp_path / "out"
        script("zett", "--model", model, "--tokenizer", SPEC_A, "--output", output, *arguments)
        return output, capsys.readouterr().out

    return run


def embeddings(folder):
    model = AutoModelForCausalLM.from_pretrained(folder)
    return model.get_input_embeddings().weight, model.get_output_embeddings().weight


@pytest.mark.parametrize("method", ["fvt", "mean", "focus", "omp"])
def test_same_tokenizer_keeps_bits_per_byte(zett, texts_file, method) -> None:
    _, printed = zett("--target", SPEC_A, "--method", method, "--text", texts_file)
    before, after = map(float, re.search(r"([\d.]+) before, ([\d.]+) after", printed).groups())
    assert before == pytest.approx(after, abs=1e-6) and before > 1


@pytest.mark.parametrize("method", ["random", "mean", "focus", "omp"])
def test_methods(zett, texts_file, method) -> None:
    output, printed = zett(
        "--target", SPEC_B, "--method", method, "--text", texts_file, "--max-documents", 3
    )
    assert f"by {method}" in printed and "(3 documents)" in printed
    counts = {
        k: int(n.replace(",", "")) for k, n in re.findall(r"^  (\w+) +([\d,]+)$", printed, re.M)
    }
    assert set(counts) == {"special", "exact", "averaged", "fallback"}
    assert sum(counts.values()) == len(load_tokenizer(SPEC_B))
    assert all(matrix.isfinite().all() for matrix in embeddings(output))


def test_omp_with_a_donor(zett, tmp_path) -> None:
    """A donor has a row for every token of its own tokenizer, so none is drawn."""
    target = load_tokenizer(SPEC_B)
    donor = save_tiny(tmp_path / "donor", "llama", seed=3, vocab_size=len(target))
    target.save(donor)
    spec = f"{donor}:source={target.family.name}"
    output, printed = zett("--target", SPEC_B, "--method", "omp", "--donor", spec, "--omp-k", 4)
    fallback = re.search(r"fallback +(\d+)", printed)
    assert int(fallback[1]) == 0
    assert all(matrix.isfinite().all() for matrix in embeddings(output))


def test_pruning_by_a_list_and_by_frequency(zett, tiny_llama, texts_file, tmp_path) -> None:
    source = load_tokenizer(SPEC_A)
    entries = [source.hf.convert_ids_to_tokens(i) for i in range(900, 940)]
    (tmp_path / "keep.json").write_text(json.dumps(entries))
    output, printed = zett(
        "--keep-tokens", tmp_path / "keep.json", "--keep-top", 50, "--text", texts_file
    )
    small = AutoTokenizer.from_pretrained(output)
    assert len(small) < len(source) and set(entries) <= set(small.get_vocab())
    said = re.search(r"([\d,]+) tokens pruned to (\d+): (\d+) asked for.*?, (\d+) more", printed)
    assert int(said[1].replace(",", "")) == len(source) and int(said[2]) == len(small)
    assert 50 < int(said[3]) <= 90 and int(said[3]) + int(said[4]) == len(small)
    assert re.search(r"averaged +0\n +fallback +0\n", printed)
    old = source.hf.convert_tokens_to_ids(small.convert_ids_to_tokens(range(len(small))))
    for new, matrix in zip(embeddings(output), embeddings(tiny_llama), strict=True):
        assert torch.equal(new, matrix[old])
    text = "naïve text, 日本語 def f(x):\n\n  return 1"
    assert small.decode(small(text, add_special_tokens=False)["input_ids"]) == text


def test_all_methods_in_one_load(script, zett, tiny_llama, texts_file, capsys) -> None:
    """As each of them gives alone."""
    given = ["--target", SPEC_B, "--text", texts_file, "--max-documents", 3]
    script("zett", "--model", tiny_llama, "--tokenizer", SPEC_A, "--method", "all", *given)
    table = dict(re.findall(r"^  (.+?) +([\d.]+)$", capsys.readouterr().out, re.M))
    assert set(table) == {"its own tokenizer", "focus", "fvt", "mean", "omp", "random"}
    _, printed = zett(*given, "--method", "focus")
    before, after = re.search(r"([\d.]+) before, ([\d.]+) after", printed).groups()
    assert float(table["its own tokenizer"]) == pytest.approx(float(before), abs=1e-3)
    assert float(table["focus"]) == pytest.approx(float(after), abs=1e-3)


def test_extension(zett, tiny_llama, tmp_path) -> None:
    (tmp_path / "add.txt").write_text("quickbrown\n fox jumps\n\n")
    output, printed = zett("--add-tokens", tmp_path / "add.txt")
    source, wide = load_tokenizer(SPEC_A), AutoTokenizer.from_pretrained(output)
    assert len(wide) == len(source) + 2 and re.search(r"averaged +2\n", printed)
    assert wide("a quickbrown", add_special_tokens=False)["input_ids"][-1] == len(source)
    pieces = source.tokenize_bytes("quickbrown")
    for new, matrix in zip(embeddings(output), embeddings(tiny_llama), strict=True):
        assert torch.equal(new[: len(source)], matrix)
        torch.testing.assert_close(new[len(source)], matrix[pieces].mean(0))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to do: give --target"),
        (["--keep-top", 5], "--keep-top counts tokens, so it needs --text"),
        (["--target", SPEC_B, "--method", "all"], "--method all compares on --text"),
        (["--target", SPEC_B, "--method", "all", "--text", "x"], "all writes nothing: leave out"),
        (["--target", SPEC_B, "--donor", "x"], "--donor is of --method omp, not fvt"),
        (["--target", SPEC_B, "--max-documents", 0], "--max-documents: '0' is not an integer"),
        (["--target", SPEC_B, "--method", "fokus"], "did you mean 'focus'"),
        (["--target", SPEC_B, "--method", "omp", "--omp-k", 0], "--omp-k: '0' is not an integer"),
        (["--keep-tokens", "no/such/file"], "'no/such/file' cannot be read"),
    ],
)
def test_bad_input(zett, tmp_path, arguments, message) -> None:
    with pytest.raises(TokenkitError, match=re.escape(message)):
        zett(*arguments)
    assert not (tmp_path / "out").exists()


def test_lists_of_tokens_are_checked(zett, tmp_path) -> None:
    path = tmp_path / "list.json"
    for content, message in (
        ('{"a": 1}', "is not a JSON list of strings"),
        ("[]", "lists no tokens"),
        ('["', "cannot be read"),
        ('["zzzqqq"]', "'zzzqqq' is no token of"),
    ):
        path.write_text(content)
        with pytest.raises(TokenkitError, match=message):
            zett("--keep-tokens", path)
