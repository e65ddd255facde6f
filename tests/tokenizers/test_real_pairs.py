"""Real tokenizers and templates beside ``tokenizers`` and ``transformers`` themselves."""

from __future__ import annotations

import random
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from tests.tokenizers.real_pairs import (
    DIALOGS,
    MODEL,
    TOKENIZER_NAMES,
    make_pair,
    messages,
    pair_names,
    real_tokenizer,
)
from tokenkit.errors import DataError
from tokenkit.tokenizers import align_pair, load_tokenizer

pytestmark = pytest.mark.real

TEXTS = [
    "Plain prose, with punctuation; and a second sentence.\n\nA new paragraph.",
    "  begins with spaces", "ends with spaces   ", "\n\nnewlines around\n\n\n",
    "\t\ttabs\n\t\tmore",
    "def f(x):\n\treturn {'a': [1, 2]}\n\n\n# done", "12345 + 67.890 = 1e10; 007",
    "日本語の文章。中文文本,混合 English。", "👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽", "cafe\u0301 café ﬁ ½ Å Å",
    "mixed\r\nline\rends\n\r\n", "a <unk> b c", "<|im_end|> spelt <|eot_id|> </s> <eos> out",
    "▁ metaspace ▁▁", "", " ", "\n", "x" * 300, "<|<bos>|> marker", "العربية हिन्दी ไทย",
]  # fmt: skip


@cache
def loaded(path: Path):
    return load_tokenizer(str(path))


@pytest.mark.parametrize("name", [*TOKENIZER_NAMES, MODEL])
def test_texts_have_the_tokenizers_own_ids(name: str) -> None:
    path = real_tokenizer(name)
    tok, own = loaded(path), Tokenizer.from_file(str(path / "tokenizer.json"))
    for text in TEXTS:
        assert tok.encode_text(text) == own.encode(text, add_special_tokens=False).ids, text


@pytest.mark.parametrize(("name", "bos"), [
    ("gpt2", ""), ("llama2", "<s>"), ("llama3", "<|begin_of_text|>"), ("gemma2", "<bos>"),
    ("qwen2_5", ""), ("mistral_nemo", "<s>"), (MODEL, ""),
])  # fmt: skip
def test_texts_begin_as_the_files_say(name: str, bos: str) -> None:
    assert loaded(real_tokenizer(name)).text_bos == bos


@pytest.fixture(scope="session")
def root(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("pairs")


PAIRS = pair_names()


@pytest.mark.parametrize(("tokenizer", "template"), PAIRS)
def test_chats_are_the_templates_own(tokenizer: str, template: str, root: Path) -> None:
    """Strings and lists as contents; what the template refuses is refused with its reason."""
    path = make_pair(tokenizer, template, root)
    tok, hf = loaded(path), PreTrainedTokenizerFast.from_pretrained(path)
    compared = 0
    for name in DIALOGS:
        chat = messages(name)
        listed = [{**m, "content": [{"type": "text", "text": m["content"]}]} for m in chat]
        for turns in (chat, listed):
            for options in ({}, {"add_generation_prompt": True}):
                try:
                    wanted = hf.apply_chat_template(
                        turns, tokenize=True, return_dict=False, **options
                    )
                except Exception:
                    with pytest.raises(DataError, match="the chat template refuses the chat"):
                        tok.encode_chat(turns, **options)
                    continue
                assert tok.encode_chat(turns, **options) == wanted, (name, options)
                compared += 1
    assert compared


def some_pairs(count: int) -> list[tuple]:
    every = [(a, b) for a in PAIRS for b in PAIRS if a != b]
    return random.Random(0).sample(every, min(count, len(every)))


LONG = [
    {"role": "user", "content": "Explain how bread rises, please.\nIn a few words."},
    {"role": "assistant", "content": "Yeast eats sugar and gives off gas.\n\n1. Mix\n2. Wait 日本"},
    {"role": "user", "content": "And if it is cold?"},
    {"role": "assistant", "content": 'Then it takes longer, "overnight" perhaps.'},
]


def aligned_bytes(side, content: bytes) -> int:
    covered = np.zeros(len(side.data), bool)
    for (begin, end), chunk in zip(side.byte_ranges, side.chunks, strict=True):
        if chunk >= 0:
            covered[begin:end] = True
    at = side.data.find(content)
    return int(covered[at : at + len(content)].sum()) if at >= 0 else 0


@pytest.mark.parametrize(("teacher", "student"), some_pairs(40))
def test_alignment_of_two_renderings(teacher: tuple, student: tuple, root: Path) -> None:
    tok, other = (loaded(make_pair(*pair, root)) for pair in (teacher, student))
    total = missing = 0
    for chat in (LONG, *map(messages, DIALOGS)):
        for loss_on in ("all", "assistant"):
            try:
                pair = align_pair(tok, other, chat, loss_on)
            except DataError as error:
                assert "refuses the chat" in str(error)
                continue
            sides = (pair.teacher, pair.student)
            for chunk in range(int(pair.teacher.chunks.max(initial=-1)) + 1):
                raw, counted = [], set()
                for side in sides:
                    places = side.chunks == chunk
                    raw.append(b"".join(side.data[a:b] for a, b in side.byte_ranges[places]))
                    counted |= set(side.loss_mask[places].tolist())
                # Ends of turns are written differently, and nothing else.
                assert raw[0] == raw[1] or all(r.strip()[:1] in b"<[" for r in raw), raw
                assert len(counted) == 1
            for side in sides:
                assert (np.diff(side.chunks[side.chunks >= 0]) >= 0).all()
        if chat is LONG and all(m["content"].encode() in s.data for m in LONG for s in sides):
            for message in LONG:
                content = message["content"].encode()
                total += len(content)
                missing += len(content) - aligned_bytes(pair.student, content)
    assert missing <= total * 0.001
