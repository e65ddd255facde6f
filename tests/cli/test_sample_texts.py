"""Texts that a model samples: the same for one seed, and never over a file."""

from __future__ import annotations

import json

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed

from tests.launch import SPEC_A
from tests.models.tiny import save_tiny
from tokenkit.cli.sample_texts import openings
from tokenkit.errors import ConfigError, DataError, TokenkitError
from tokenkit.inference.model import TextModel
from tokenkit.tokenizers import load_tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = save_tiny(tmp_path_factory.mktemp("sampled") / "m", "llama", vocab_size=1505)
    load_tokenizer(SPEC_A).save(folder)
    return folder


def texts(path) -> list[str]:
    return [json.loads(line)["text"] for line in path.read_text().splitlines()]


def test_one_seed_gives_the_texts_of_plain_generation(script, folder, tmp_path):
    prompts = tmp_path / "prompts"
    prompts.write_text("The sea\n\nOnce\n")
    given = ["--model", folder, "--count", 3, "--max-tokens", 6, "--batch-size", 3, "--seed", 4]
    for name in "ab":
        script("sample_texts", "--output", tmp_path / name, "--prompts", prompts, *given)
    found = texts(tmp_path / "a")
    assert found == texts(tmp_path / "b") and len(found) == 3
    assert [text[:4] for text in found] == ["The ", "Once", "The "]

    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="bfloat16")
    inputs = tokenizer(["The sea", "Once", "The sea"], return_tensors="pt", padding=True)
    assert (inputs["input_ids"] == tokenizer.bos_token_id).sum() == 3
    set_seed(4)
    rows = model.generate(
        input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"],
        do_sample=True, top_k=0, max_new_tokens=6,
    )  # fmt: skip
    plain = tokenizer.batch_decode(rows, skip_special_tokens=True)
    assert found == [text.strip() for text in plain]


def test_openings_begin_with_one_bos_and_starts_may_be_tokens(folder, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = TextModel(None, load_tokenizer(str(folder)), "m")
    bos, eos = tokenizer.bos_token, tokenizer.eos_token
    for start in ("", bos, eos, "So "):
        found = openings(start, ["the sea", "one"], model)
        written = start if start == bos else bos + start
        wanted = [written + text for text in ("the sea", "one")]
        assert found == tokenizer(wanted, add_special_tokens=False)["input_ids"]
    assert openings(eos, [], model) == [[tokenizer.bos_token_id, tokenizer.eos_token_id]]


def test_prompts_are_read_as_generate_reads_them(script, folder, tmp_path):
    prompts = tmp_path / "p.jsonl"
    prompts.write_text('{"prompt": "The\\nsea"}\n{"text": "Once"}\n')
    given = ["--model", folder, "--count", 2, "--max-tokens", 2, "--prompts", prompts]
    script("sample_texts", "--output", tmp_path / "a", *given)
    assert [text[:4] for text in texts(tmp_path / "a")] == ["The\n", "Once"]
    prompts.write_text('{"messages": [{"role": "user", "content": "Hi"}]}')
    with pytest.raises(DataError, match="has 'messages', but only texts are read"):
        script("sample_texts", "--output", tmp_path / "b", *given)


@pytest.mark.parametrize("option", ["--start", "--prompts"])
def test_a_chat_has_no_start(script, folder, tmp_path, option):
    with pytest.raises(ConfigError, match=f"{option} with --chat"):
        script("sample_texts", "--model", folder, "--output", tmp_path / "x", "--chat", option, "x")


def test_a_chat_model_asks_and_answers(script, folder, tmp_path):
    """Questions go on from the template's header of a user's turn, answers from its prompt."""
    chat = ["--chat", "--count", 3, "--max-tokens", 5, "--batch-size", 2, "--seed", 1]
    script("sample_texts", "--model", folder, "--output", tmp_path / "chats", *chat)
    rows = [json.loads(line)["messages"] for line in (tmp_path / "chats").read_text().splitlines()]
    assert rows and all([turn["role"] for turn in row] == ["user", "assistant"] for row in rows)

    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="bfloat16")

    def sampled(*prompts: str) -> list[str]:
        inputs = tokenizer(prompts, return_tensors="pt", padding=True, add_special_tokens=False)
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        made = model.generate(input_ids=ids, attention_mask=mask, do_sample=True, top_k=0,
                              max_new_tokens=5)[:, ids.shape[1]:]  # fmt: skip
        return [text.strip() for text in tokenizer.batch_decode(made, skip_special_tokens=True)]

    set_seed(1)
    written = tokenizer.apply_chat_template([rows[0][0]], tokenize=False)
    header = "".join(written.partition("<|start_header_id|>user<|end_header_id|>\n\n")[:2])
    assert header != written
    questions = sampled(header, header)
    turns = [[{"role": "user", "content": question}] for question in questions]
    prompts = [
        tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
        for turn in turns
    ]
    answers = sampled(*prompts)
    assert [[t["content"] for t in row] for row in rows[:2]] == [
        list(pair) for pair in zip(questions, answers, strict=True)
    ]


def test_what_is_there_stays(script, folder, tmp_path):
    taken = tmp_path / "taken"
    taken.write_text("mine")
    with pytest.raises(TokenkitError, match="already exists"):
        script("sample_texts", "--model", folder, "--output", taken)
    with pytest.raises(DataError, match="cannot be read"):
        script("sample_texts", "--model", folder, "--output", tmp_path / "x", "--prompts", "none")
    assert taken.read_text() == "mine" and not (tmp_path / "x").exists()
