"""Frames: contents found without a second rendering are where tinting finds them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tokenizers import templates
from tests.tokenizers.templates import CHAT
from tokenkit.tokenizers import ChatTemplate, Conversation
from tokenkit.tokenizers.chat.places import contents_of, find_places
from tokenkit.tokenizers.chat.writing import ChatWriter

TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
SPECIAL = ["<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|end|>"]
# Templates with marks between contents that only cut, move, repeat or drop them.
FRAMED = ["QWEN2", "QWEN3", "LLAMA3", "LLAMA3_1", "GEMMA3", "PHI3", "MISTRAL", "NEW", "REPEATS"]
WORDS = [
    "Hi",
    " there",
    "\n",
    "\n\n",
    "  ",
    "日本",
    "user",
    "assistant\n",
    "zq0qz",
    '"',
    "</think>",
]
TEXT = st.lists(st.sampled_from(WORDS), min_size=1, max_size=5).map("".join)


def writer(name: str) -> ChatWriter:
    return ChatWriter(ChatTemplate({"default": getattr(templates, name)}, TOKENS), SPECIAL)


def chat(*texts: str, is_open: bool = False) -> Conversation:
    roles = ("user", "assistant")
    messages = [{"role": roles[k % 2], "content": text} for k, text in enumerate(texts)]
    return Conversation(messages, open=is_open)


@pytest.fixture
def rendered(monkeypatch) -> list[Conversation]:
    """The chats that templates are run on, one after another."""
    seen: list[Conversation] = []
    plain = ChatTemplate.render

    def render(self, conversation):
        seen.append(conversation)
        return plain(self, conversation)

    monkeypatch.setattr(ChatTemplate, "render", render)
    return seen


@pytest.mark.parametrize("name", FRAMED)
@settings(max_examples=25, deadline=None)
@given(texts=st.lists(TEXT, min_size=1, max_size=4), is_open=st.booleans())
def test_framed_chats_are_read_as_tinted_ones(name: str, texts, is_open: bool) -> None:
    write = writer(name)
    framed, tinted = (write.write(chat(*texts, is_open=is_open)) for _ in range(2))
    tinted.__dict__["_framed"] = None
    if all(set(text) - set('" \n') for text in texts):  # quotes and blanks alone have no tint
        assert framed.places == tinted.places
        assert framed.parts == tinted.parts
        for loss_on in ("assistant", "completion"):
            assert framed.counted(loss_on) == tinted.counted(loss_on)


@pytest.mark.parametrize("name", FRAMED)
def test_a_framed_chat_is_rendered_once(name: str, rendered) -> None:
    write = writer(name)
    for texts in (("Why?", "So."), ("  Why not?\n", "Because\nof that. ")):
        rendered.clear()
        written = write.write(chat(*texts))
        assert written.places and written.counted("assistant") and written.parts
    assert rendered == [chat(*texts)]


def test_what_the_template_looks_for_in_contents_takes_tinting(rendered) -> None:
    write = writer("DROPS_THOUGHTS")
    texts = ("Why?", "<think>hm</think>So.", "And?", "Yes.")
    written = write.write(chat(*texts))
    assert write.frames.fit(written.chat, written.text) is None
    shown = {p.content: written.text[p.begin : p.end] for p in written.places}
    assert shown[0] == "Why?" and "hm" not in written.text and shown[1].endswith("So.")


def test_chats_of_more_than_roles_and_texts_have_no_frame() -> None:
    write = writer("QWEN2")
    for messages, options in (
        ([{"role": "user", "content": " \n"}], {}),
        ([{"role": "user", "content": "a", "name": "b"}], {}),
        (CHAT, {"tools": [{"name": "f"}]}),
        (CHAT, {"options": {"enable_thinking": True}}),
    ):
        conversation = Conversation(messages, **options)
        text = write.template.render(conversation)[0]
        assert write.frames.fit(conversation, text) is None
        contents = contents_of(conversation)
        assert write.write(conversation).places == find_places(
            write.template, conversation, text, contents
        )


def test_without_marks_between_contents_there_is_no_frame() -> None:
    """Whose the newline is, only tinting can say."""
    template = "{% for m in messages %}{{ m.content | trim + '\\n' }}{% endfor %}"
    write = ChatWriter(ChatTemplate({"default": template}, TOKENS), SPECIAL)
    conversation = chat("a\n", "\nb")
    written = write.write(conversation)
    assert write.frames.fit(conversation, written.text) is None
    assert [(p.begin, p.end) for p in written.places] == [(0, 1), (2, 3)]


def test_more_shapes_than_are_remembered(monkeypatch) -> None:
    monkeypatch.setattr("tokenkit.tokenizers.chat.frames.MOST_SHAPES", 1)
    write = writer("QWEN3")
    first, second = write.write(chat("Why?", "So.")), write.write(chat("Why?"))
    assert first.places and second.places
    opened = "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n"
    assert first.counted("assistant") == [(len(opened), len(first.text) - 1)]
