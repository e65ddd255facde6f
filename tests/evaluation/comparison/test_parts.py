"""Parts of a comparison: names, errors, rows that moved, curves, differences of tokenizers."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.launch import SPEC_A, SPEC_B
from tests.models.tiny import save_tiny
from tests.tokenizers.specs import tokenizer
from tokenkit.errors import ConfigError, DataError
from tokenkit.evaluation.comparison import scoring
from tokenkit.evaluation.comparison.curves import read_curves, thinned
from tokenkit.evaluation.comparison.entry import Entry, short_names
from tokenkit.evaluation.comparison.moved import change, moved_rows
from tokenkit.evaluation.comparison.scoring import ratio, writable_documents
from tokenkit.evaluation.comparison.traits import Traits, mismatches, trait_table
from tokenkit.evaluation.comparison.writing import opening
from tokenkit.tokenizers import load_tokenizer


def test_names_are_short_and_tell_apart(tmp_path):
    assert short_names(["org/model", "runs/x/"]) == ["model", "x"]
    assert short_names(["a/x", "b/x", "b/y"]) == ["a/x", "b/x", "y"]
    assert short_names(["c/a/x", "d/a/x"]) == ["c/a/x", "d/a/x"]
    with pytest.raises(ConfigError, match="named twice"):
        short_names(["org/m", "org/m"])
    (tmp_path / "m").mkdir()
    with pytest.raises(ConfigError, match="named twice"):
        short_names([str(tmp_path / "m"), str(tmp_path / "." / "m" / "..") + "/m"])


def test_the_standard_error_is_that_of_the_ratio():
    """Over many samples, the ratio's spread is what the error says."""
    generator = np.random.default_rng(0)
    sizes = generator.integers(20, 200, (4000, 60)).astype(float)
    amounts = sizes * 2 + generator.normal(0, 15, sizes.shape)
    found = [ratio(a, s) for a, s in zip(amounts, sizes, strict=True)]
    spread = np.std([item["value"] for item in found])
    assert np.mean([item["stderr"] for item in found]) == pytest.approx(spread, rel=0.05)
    assert ratio(np.array([6.0]), np.array([3.0])) == {"value": 2.0, "stderr": None}


def test_documents_that_are_left_out_are_named():
    texts = ["one", "two", "one", "three"]
    tok = tokenizer("bpe_a:source=Llama3")
    assert writable_documents("f", texts, [tok]).left_out == []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scoring, "writable_texts", lambda toks, texts: ["one", "three"])
        # The first of two equal texts is the one that stayed.
        assert writable_documents("f", texts, []).left_out == [(2, "two"), (3, "one")]

        def none_left(toks, texts):
            raise DataError("no document is left")

        patch.setattr(scoring, "writable_texts", none_left)
        with pytest.raises(DataError, match="--data f: no document"):
            writable_documents("f", texts, [])


def test_change_of_rows():
    before = torch.tensor([[3.0, 4.0], [1.0, 0.0], [0.0, 2.0]])
    after = torch.tensor([[3.0, 4.0], [0.0, 1.0], [0.0, 3.0]])
    moved, cosine = change(before, after)
    assert moved.tolist() == pytest.approx([0, math.sqrt(2), 0.5])
    assert cosine.tolist() == pytest.approx([1, 0, 1])


def test_rows_that_barely_moved_are_found(tmp_path):
    from transformers import AutoModelForCausalLM

    start = save_tiny(tmp_path / "start", "llama", vocab_size=1505)
    model = AutoModelForCausalLM.from_pretrained(start)
    tok = tokenizer("bpe_a:source=Llama3")
    text = "def f(x):\n    return x"
    used = sorted(set(tok.encode_text(text)))
    still, moved = used[0], used[1:]
    with torch.no_grad():
        for i in moved:
            model.model.embed_tokens.weight[i] *= 1.5
        model.lm_head.weight *= 1.001
    model.save_pretrained(tmp_path / "end")
    entry = Entry("m", "m", str(tmp_path / "end"), tok, start=str(start))
    found = moved_rows(entry, [text])
    inputs, outputs = found["input"], found["output"]
    known = sum(map(bool, tok.tokens))
    assert (inputs["rows"], inputs["barely"]) == (known, known - len(moved))
    assert (inputs["rows_in_data"], inputs["barely_in_data"]) == (len(used), 1)
    assert inputs["least"][0]["id"] == still and inputs["least"][0]["change"] == 0
    assert inputs["least"][1]["change"] == pytest.approx(0.5, rel=1e-5)
    assert inputs["least"][0]["count"] == tok.encode_text(text).count(still)
    assert outputs["barely"] == known
    assert outputs["median_change"] == pytest.approx(0.001, rel=1e-2)
    assert sum(inputs["histogram"]["all"]) == known
    assert sum(inputs["histogram"]["in_data"]) == len(used)
    assert moved_rows(Entry("m", "m", str(start), tok), [text]) is None


def test_curves_of_a_run(tmp_path):
    rows = [
        {"step": 1, "loss": 3.0, "tokens_per_second": 9.0},
        {"step": 2, "loss": float("nan"), "validation/bits_per_byte": 2.0},
        {"step": 2, "loss": 2.5},
        {"step": 1, "loss": 2.75},
    ]
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 3, "lo')
    curves = read_curves(tmp_path)
    assert curves == {"loss": [(1, 2.75), (2, 2.5)], "validation/bits_per_byte": [(2, 2.0)]}
    path.write_text("broken\n" + path.read_text())
    with pytest.raises(DataError, match="metrics.jsonl:1"):
        read_curves(tmp_path)
    with pytest.raises(DataError, match="no metrics"):
        read_curves(tmp_path / "none")
    long = [(step, float(step)) for step in range(1001)]
    assert (
        len(thinned(long)) <= 300 and thinned(long)[0] == long[0] and thinned(long)[-1] == long[-1]
    )


def test_tokenizers_that_read_numbers_or_begin_texts_differently():
    toks = {name: load_tokenizer(spec) for name, spec in (("a", SPEC_A), ("b", SPEC_B))}
    byte = tokenizer("bpe_a:source=GPT2")
    for tok in toks.values():
        longest = max(
            sum(c in "0123456789" for c in tok.tokens[i]) for i in tok.encode_text("1234567890")
        )
        assert Traits.of(tok).longest_number >= longest
    entries = [SimpleNamespace(name=name, tok=tok) for name, tok in toks.items()]
    entries.append(SimpleNamespace(name="c", tok=byte))
    table = trait_table(entries)
    assert table["a"]["Texts begin with"] == "<|begin_of_text|>"
    assert table["c"]["Texts begin with"] == "no BOS"
    found = mismatches(table, "a")
    bos = next(item for item in found if item["trait"] == "Texts begin with")
    assert bos["models"] == ["c"] and "c: no BOS" in bos["text"] and bos["why"]
    assert mismatches({"a": table["a"]}, "a") == []


def test_openings_end_with_a_word():
    assert opening("short text") == "short text"
    assert opening("one two three", 8) == "one two"
    assert opening("one two three", 7) == "one two"
    assert opening("unbroken", 4) == "unbr"
