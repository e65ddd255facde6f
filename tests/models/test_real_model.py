"""SmolLM2-135M-Instruct beside ``transformers``, and what a transfer of it keeps."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from tests.tokenizers.real_pairs import MODEL, real_tokenizer
from tokenkit.batch import Sequences
from tokenkit.evaluation.bits_per_byte import bits_per_byte
from tokenkit.export.zero_shot import transfer_model
from tokenkit.models.causal_lm import load_causal_lm
from tokenkit.tokenizers import load_tokenizer

pytestmark = pytest.mark.real

CHATS = [
    [{"role": "user", "content": "What is the capital of France?"},
     {"role": "assistant", "content": "The capital of France is Paris."}],
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2 + 2?\n"},
     {"role": "assistant", "content": " 4"}],
]  # fmt: skip
TEXTS = ["Yeast eats sugar and gives off gas.\n\n1. Mix\n2. Wait", "def f(x):\n\treturn x + 1\n"]


@pytest.fixture(scope="module")
def folder() -> Path:
    return real_tokenizer(MODEL)


@pytest.fixture(scope="module")
def plain(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


@torch.no_grad()
def plain_logprobs(model, ids: list[int]) -> torch.Tensor:
    logits = model(torch.tensor([ids])).logits[0].float().log_softmax(-1)
    return logits[:-1].gather(1, torch.tensor(ids)[1:, None]).squeeze(1)


@torch.no_grad()
def test_log_likelihoods_equal_transformers(folder, plain) -> None:
    tok, hf = load_tokenizer(str(folder)), AutoTokenizer.from_pretrained(folder)
    model = load_causal_lm(str(folder), torch.device("cpu"), torch.float32, len(tok))
    rows = [tok.encode_chat(chat) for chat in CHATS] + [tok.encode_text(text) for text in TEXTS]
    wanted = [hf.apply_chat_template(chat, return_dict=False) for chat in CHATS]
    wanted += [hf(text)["input_ids"] for text in TEXTS]
    assert rows == wanted
    for ids in rows:
        found = model(Sequences.of(torch.tensor([ids]))).token_logprob[0, 1:]
        torch.testing.assert_close(found, plain_logprobs(plain, ids), atol=1e-4, rtol=0)


def test_bits_per_byte_equal_a_plain_computation(folder, plain) -> None:
    tok, hf = load_tokenizer(str(folder)), AutoTokenizer.from_pretrained(folder)
    model = load_causal_lm(str(folder), torch.device("cpu"), torch.float32, len(tok))
    found = bits_per_byte(
        model, tok, TEXTS, max_bytes=4096, batch_size=2, device=torch.device("cpu")
    )
    total = 0.0
    for text in TEXTS:  # its texts begin with no BOS, so they follow the end of another one
        ids = [hf.eos_token_id, *hf(text, add_special_tokens=False)["input_ids"]]
        total -= plain_logprobs(plain, ids).double().sum().item()
    size = sum(len(text.encode()) for text in TEXTS)
    assert found == pytest.approx(total / math.log(2) / size, abs=1e-4)


@pytest.fixture(scope="module")
def moved(folder, tmp_path_factory) -> Path:
    """The model with Qwen 2.5's tokenizer, without training."""
    source = load_tokenizer(str(folder))
    target = load_tokenizer(str(real_tokenizer("qwen2_5")), like=source)
    output = tmp_path_factory.mktemp("moved") / "model"
    transfer_model(str(folder), source, target, output, method="fvt", seed=0)
    return output


def test_a_transfer_keeps_the_chat(folder, moved) -> None:
    source, target = AutoTokenizer.from_pretrained(folder), AutoTokenizer.from_pretrained(moved)
    original = json.loads((real_tokenizer("qwen2_5") / "tokenizer.json").read_text("utf-8"))
    assert target.chat_template == source.chat_template
    named = ("bos_token", "eos_token", "pad_token")  # a byte-level vocabulary needs no unk_token
    assert [getattr(target, n) for n in named] == [getattr(source, n) for n in named]
    vocabulary = target.get_vocab()
    assert all(vocabulary[token] == i for token, i in original["model"]["vocab"].items())
    tok = load_tokenizer(str(moved))
    for chat in CHATS:
        text = source.apply_chat_template(chat, tokenize=False)
        assert target.apply_chat_template(chat, tokenize=False) == text
        ids = target(text, add_special_tokens=False)["input_ids"]
        assert tok.encode_chat(chat) == ids and target.decode(ids) == text
    ends = GenerationConfig.from_pretrained(moved).eos_token_id
    assert target.convert_tokens_to_ids("<|im_end|>") in ends


def test_generation_ends_with_the_answer(moved) -> None:
    tokenizer = AutoTokenizer.from_pretrained(moved)
    model = AutoModelForCausalLM.from_pretrained(moved, dtype=torch.float32)
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    inputs = tokenizer.apply_chat_template(
        chat, return_tensors="pt", add_generation_prompt=True, return_dict=True
    )
    output = model.generate(**inputs, max_new_tokens=40, do_sample=False)[0].tolist()
    answer = tokenizer.decode(output[inputs["input_ids"].shape[1] :])
    # Whether an untrained vocabulary answers rightly is luck; that it stops is the template's.
    assert "France" in answer and answer.endswith("<|im_end|>"), answer


TRANSFERRED = "TOKENKIT_TRANSFERRED"
QUESTIONS = {
    "What is the capital of France?": "Paris",
    "How many days are in a week?": "7|seven",
    "What is 2 + 2?": "4|four",
    "What is the capital of Germany?": "Berlin",
    "What is the capital of Spain?": "Madrid",
    "What is the capital of Italy?": "Rome",
    "What is the opposite of hot?": "cold",
    "What is the capital of Japan?": "Tokyo",
    "What color is grass?": "green",
    "What is 3 + 4?": "7|seven",
}


@torch.no_grad()
def right_and_stopped(folder: str) -> set[str]:
    """Questions that a chat model answers with the word wanted, and then ends its turn."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    found = set()
    for question, words in QUESTIONS.items():
        inputs = tokenizer.apply_chat_template(
            [{"role": "user", "content": question}],
            return_tensors="pt", add_generation_prompt=True, return_dict=True,
        )  # fmt: skip
        output = model.generate(**inputs, max_new_tokens=60, do_sample=False)[0].tolist()
        answer = tokenizer.decode(output[inputs["input_ids"].shape[1] :])
        if any(word in answer for word in words.split("|")) and answer.endswith("<|im_end|>"):
            found.add(question)
    return found


@pytest.mark.skipif(TRANSFERRED not in os.environ, reason=f"needs {TRANSFERRED}")
def test_a_trained_transfer_answers_and_stops(folder) -> None:
    """The exported result of train_configs/smollm2_to_qwen2.toml, beside the model it was."""
    after = right_and_stopped(os.environ[TRANSFERRED])
    assert len(after) >= 5 and len(after) >= len(right_and_stopped(str(folder))), after
