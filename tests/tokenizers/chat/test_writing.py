"""What closes a turn, read off a trial chat."""

from __future__ import annotations

import pytest

from tests.tokenizers import templates
from tokenkit.tokenizers import ChatTemplate, Conversation
from tokenkit.tokenizers.chat.writing import ChatWriter

TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
SPECIAL = [
    "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>",
    "<|eot_id|>", "<start_of_turn>", "<end_of_turn>", "<|stop|>", "<|turn|>",
]  # fmt: skip
TURNS = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]


def writer(name: str) -> ChatWriter:
    return ChatWriter(ChatTemplate({"default": getattr(templates, name)}, TOKENS), SPECIAL)


@pytest.mark.parametrize(
    ("name", "end"),
    [
        ("QWEN2", "<|im_end|>"),
        ("LLAMA3", "<|eot_id|>"),
        ("GEMMA2", "<end_of_turn>"),
        ("MISTRAL", "</s>"),
        ("NEW", "<|stop|>"),
        # The header that always follows belongs to the next turn.
        ("LLAMA3_ALWAYS_PROMPTS", "<|eot_id|>"),
    ],
)
def test_ends_of_turns(name: str, end: str) -> None:
    write = writer(name)
    assert write.ends == (end,)
    written = write.write(Conversation(TURNS))
    begin = written.text.index("So.")
    assert written.counted("completion") == [(begin - (name == "MISTRAL"), begin + 3 + len(end))]


def test_plain_words_close_nothing() -> None:
    assert writer("PLAIN_WORDS").ends == ()
