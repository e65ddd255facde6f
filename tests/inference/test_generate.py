"""Generation against plain transformers: greedy and drawn, alone and in batches."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    RepetitionPenaltyLogitsProcessor,
)

from tests.launch import SPEC_A
from tests.models.tiny import save_tiny
from tokenkit.errors import ConfigError, DataError, ModelError
from tokenkit.inference.generate import generate, padded_left
from tokenkit.inference.model import load_text_model
from tokenkit.inference.processors import RepetitionPenalty
from tokenkit.inference.sampling import Sampling
from tokenkit.tokenizers import load_tokenizer

CPU = torch.device("cpu")
PROMPTS = ["The sea", "def f(x):\n    return", "a", "Zwölf Boxkämpfer 🦊"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model with more rows than tokens."""
    folder = tmp_path_factory.mktemp("generation") / "m"
    save_tiny(folder, "llama", vocab_size=1520, max_position_embeddings=256)
    load_tokenizer(SPEC_A).save(folder)
    return folder


@pytest.fixture(scope="module")
def model(folder):
    return load_text_model(str(folder), device=CPU)


@pytest.fixture(scope="module")
def plain(folder):
    """transformers' own; the rows without a token have no probability."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    rows = torch.zeros(1520)
    rows[1505:] = -torch.inf
    with torch.no_grad():
        model.lm_head.bias = torch.nn.Parameter(rows)
    return model, AutoTokenizer.from_pretrained(folder)


def written(model, prompts, batch_size=1, **options):
    ids = [model.encode_prompt(prompt) for prompt in prompts]
    return list(generate(model, ids, Sampling(**options), batch_size))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"repetition_penalty": 1.7},
        {"temperature": 0.7},
        {"temperature": 1.3, "top_k": 5, "repetition_penalty": 1.2},
        {"top_p": 0.6},
        {"min_p": 0.4},
    ],
)
def test_equals_transformers(model, plain, options):
    reference, tokenizer = plain
    for prompt in PROMPTS:
        (found,) = written(model, [prompt], max_new_tokens=12, seed=3, **options)
        inputs = tokenizer(prompt, return_tensors="pt")
        theirs = {"do_sample": bool(set(options) - {"repetition_penalty"}), "top_k": 0, **options}
        if not theirs["do_sample"]:
            theirs.pop("top_k")
        torch.manual_seed(3)
        rows = reference.generate(**inputs, max_new_tokens=12, **theirs)
        new = rows[0, inputs["input_ids"].shape[1] :].tolist()
        assert found.ids == new
        text = tokenizer.decode(new, skip_special_tokens=True)
        # An unfinished character at the end is left out.
        assert text in (found.text, found.text + "\ufffd")


@pytest.mark.parametrize("penalty", [1.0, 1.7])
def test_padding_changes_nothing(model, penalty):
    options = {"max_new_tokens": 16, "repetition_penalty": penalty}
    alone = written(model, PROMPTS, 1, **options)
    assert written(model, PROMPTS, 4, **options) == alone
    assert written(model, PROMPTS, 3, **options) == alone


def test_the_penalty_does_not_count_padding():
    prompts, new = [[4, 7, 7], [5]], torch.tensor([[9, 4], [6, 8]])
    ids, real = padded_left(prompts, pad=0)
    assert ids.tolist() == [[4, 7, 7], [0, 0, 5]] and real.tolist()[1] == [False, False, True]
    scores = torch.randn(2, 12)
    found = RepetitionPenalty(1.7, real)(torch.cat([ids, new], 1), scores.clone())
    for row, prompt in enumerate(prompts):
        theirs = RepetitionPenaltyLogitsProcessor(1.7)
        alone = torch.tensor([[*prompt, *new[row].tolist()]])
        torch.testing.assert_close(found[row : row + 1], theirs(alone, scores[row : row + 1]))


def test_one_seed_gives_one_text(model):
    options = {"max_new_tokens": 12, "temperature": 1.0}
    first = written(model, PROMPTS, 4, seed=1, **options)
    assert written(model, PROMPTS, 4, seed=1, **options) == first
    assert written(model, PROMPTS, 4, seed=2, **options) != first
    assert all(max(made.ids) < 1505 for made in first)


def test_a_stop_string_cuts_the_text_where_it_begins(model):
    whole = [made.text for made in written(model, PROMPTS, 4, max_new_tokens=24)]
    stops = [text[5:9] for text in whole]
    for batch_size in (1, 4):
        found = written(model, PROMPTS, batch_size, max_new_tokens=24, stop=tuple(stops))
        for made, text in zip(found, whole, strict=True):
            data = text.encode()
            met = [stop.encode() for stop in stops if stop in text]
            ends = [(data.index(stop) + len(stop), data.index(stop)) for stop in met]
            assert made.text.encode() == data[: min(ends)[1]]
            assert made.end == "stop" and len(made.ids) < 24


def test_text_arrives_in_pieces_of_its_own_row(model):
    pieces: dict[int, str] = {}

    def on_text(row, piece):
        assert piece
        pieces[row] = pieces.get(row, "") + piece

    ids = [model.encode_prompt(prompt) for prompt in PROMPTS]
    found = list(generate(model, ids, Sampling(max_new_tokens=9), 3, on_text))
    assert [pieces[row] for row in range(4)] == [made.text for made in found]


def test_ends_are_those_of_the_generation_config(folder, model):
    first = written(model, PROMPTS[:1], max_new_tokens=6)[0]
    model.ends, saved = [first.ids[2]], model.ends
    try:
        ended = written(model, PROMPTS[:1], max_new_tokens=6)[0]
    finally:
        model.ends = saved
    assert ended.end == "end" and ended.ids == first.ids[: first.ids.index(first.ids[2]) + 1]
    other = load_text_model(str(folder), device=CPU)
    other.model.generation_config.eos_token_id = [7, 9]
    assert other.ends == [7, 9]
    other = load_text_model(str(folder), device=CPU)
    other.model.generation_config.eos_token_id = None
    assert other.ends == [other.tok.eos_id]


def test_prompts_are_encoded_as_transformers_does(model, plain):
    _, tokenizer = plain
    for prompt in [*PROMPTS, "a <|eot_id|> b"]:
        assert model.encode_prompt(prompt) == tokenizer(prompt)["input_ids"]
    once = tokenizer("Hi", add_special_tokens=False)["input_ids"]
    spelt = model.encode_prompt(f"{tokenizer.bos_token}Hi")
    assert spelt == [tokenizer.bos_token_id, *once]  # theirs has two
    turns = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Hi!"}]
    theirs = tokenizer.apply_chat_template(turns, add_generation_prompt=True)["input_ids"]
    assert model.encode_chat(turns) == theirs


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("max_new_tokens", 0),
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("top_k", -1),
        ("top_p", 0.0),
        ("top_p", 1.01),
        ("min_p", -0.1),
        ("min_p", 1.1),
        ("repetition_penalty", 0.0),
        ("seed", -1),
        ("stop", ("",)),
        ("stop", ("\udcff",)),
    ],
)
def test_values_out_of_range_are_named(option, value):
    with pytest.raises(ConfigError, match=f"--{option.replace('_', '-')} "):
        Sampling(**{option: value})
    with pytest.raises(ConfigError, match="greedy"):
        Sampling(temperature=0.0, top_p=0.5)


def test_padding_needs_no_row(tmp_path):
    """A token for padding may have been added to the tokenizer alone."""
    tok = load_tokenizer(SPEC_A)
    folder = save_tiny(tmp_path / "m", "llama", vocab_size=tok.pad_id)
    model = load_text_model(str(folder), device=CPU, tok=tok)
    prompts = [model.encode_prompt(prompt) for prompt in PROMPTS[:2]]
    sampling = Sampling(max_new_tokens=6)
    alone = [list(generate(model, [prompt], sampling)) for prompt in prompts]
    assert [[one] for one in generate(model, prompts, sampling, batch_size=2)] == alone


def test_prompts_that_no_model_can_go_on_from(model):
    for prompt, message in (([], "empty"), ([1600], "not this model's"), ([5] * 250, "more than")):
        with pytest.raises(DataError, match=message):
            next(generate(model, [[5], prompt], Sampling(max_new_tokens=10)))


def test_code_of_a_folder_runs_only_if_it_is_trusted(tmp_path):
    folder = save_tiny(tmp_path / "own", "llama", vocab_size=1505, max_position_embeddings=128)
    load_tokenizer(SPEC_A).save(folder)
    (folder / "modeling_own.py").write_text(
        "from transformers import LlamaConfig, LlamaForCausalLM\n\n\n"
        "class OwnConfig(LlamaConfig):\n    model_type = 'own_llama'\n\n\n"
        "class OwnLM(LlamaForCausalLM):\n    config_class = OwnConfig\n"
    )
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["model_type"] = "own_llama"
    config["auto_map"] = {
        "AutoConfig": "modeling_own.OwnConfig",
        "AutoModelForCausalLM": "modeling_own.OwnLM",
    }
    path.write_text(json.dumps(config))
    with pytest.raises(ModelError, match="--trust-remote-code"):
        load_text_model(str(folder), device=CPU)
    model = load_text_model(str(folder), device=CPU, trust_remote_code=True)
    assert type(model.model).__name__ == "OwnLM"
    assert len(written(model, PROMPTS[:1], max_new_tokens=3)[0].ids) == 3
