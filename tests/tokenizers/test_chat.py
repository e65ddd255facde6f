"""Chats: markers, modes, and loss masks."""

from __future__ import annotations

import numpy as np
import pytest

from tests.tokenizers.samples import NAMES
from tokenkit.errors import ConfigError, DataError
from tokenkit.tokenizers import (
    CHAT_MODES,
    apply_chat_mode,
    encode_batch_with_loss_mask,
    encode_with_loss_mask,
    messages_to_markers,
)

CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "2 + 2?"},
    {"role": "assistant", "content": "It is 4."},
    {"role": "user", "content": "Sure?"},
    {"role": "assistant", "content": "Yes\n\nI am."},
]


def test_messages_become_markers() -> None:
    assert messages_to_markers(CHAT[:2]) == (
        "<|<bos>|><|<start_header>|><|<system_name>|><|<end_header>|>Be brief.<|<eot>|>"
        "<|<start_header>|><|<user_name>|><|<end_header>|>2 + 2?<|<eot>|>"
    )
    assert messages_to_markers([]) == "<|<bos>|>"


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ({"role": "tool", "content": "x"}, r"unknown role 'tool' \(allowed: system, user, assist"),
        ({"role": None, "content": "x"}, "unknown role None"),
        ({"role": "user"}, "needs the keys 'role' and 'content'"),
        ({"role": "user", "content": None}, "must be text, not NoneType"),
        ({"role": "user", "content": [{"type": "image"}]}, "must be text, not list"),
        ("hello", "needs the keys"),
    ],
)
def test_bad_messages_are_refused(message, expected: str) -> None:
    with pytest.raises(DataError, match=expected):
        messages_to_markers([CHAT[0], message])


def test_modes_do_not_double_markers() -> None:
    assert apply_chat_mode("<|<bos>|>a<|<eot>|>", "direct_encode") == "<|<bos>|>a<|<eot>|>"
    assert apply_chat_mode("a<|<eos>|>", "direct_encode") == "<|<bos>|>a<|<eos>|>"
    assert apply_chat_mode("a", "direct_encode_no_force_bos_no_force_eos") == "a"
    for mode in CHAT_MODES:
        assert "a" in apply_chat_mode("a", mode)
    with pytest.raises(ConfigError, match="unknown chat mode 'direct'"):
        apply_chat_mode("a", "direct")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("loss_on", ["all", "assistant", "completion"])
def test_loss_masks_cover_turns(tok, name: str, loss_on: str) -> None:
    t = tok(name)
    ids, mask = encode_with_loss_mask(t, messages_to_markers(CHAT), loss_on)
    assert np.array_equal(ids, t.encode(messages_to_markers(CHAT))) and mask.dtype == bool
    # Built independently, turn by turn
    expected, counted = [t.encode("<|<bos>|>")], [loss_on == "all"]
    for place, message in enumerate(CHAT):
        header = f"<|<start_header>|><|<{message['role']}_name>|><|<end_header>|>"
        is_answer = message["role"] == "assistant"
        counts = is_answer and (loss_on == "assistant" or place == len(CHAT) - 1)
        for piece, flag in ((header, False), (message["content"], counts), ("<|<eot>|>", counts)):
            expected.append(t.encode(piece))
            counted.append(flag or loss_on == "all")
    assert ids.tolist() == np.concatenate(expected).tolist()
    assert mask.tolist() == np.repeat(counted, [len(e) for e in expected]).tolist()


@pytest.mark.parametrize("loss_on", ["all", "assistant", "completion"])
def test_plain_text_counts_whole(tok, loss_on: str) -> None:
    ids, mask = encode_with_loss_mask(tok("llama3"), "<|<bos>|>some text<|<eos>|>", loss_on)
    assert len(ids) == len(mask) and mask.all()


def test_turns_without_an_answer_count_nothing(tok) -> None:
    text = messages_to_markers(CHAT[:2])
    for loss_on in ("assistant", "completion"):
        assert not encode_with_loss_mask(tok("llama3"), text, loss_on)[1].any()


def test_an_unclosed_answer_counts(tok) -> None:
    text = messages_to_markers(CHAT[:3]).removesuffix("<|<eot>|>")
    ids, mask = encode_with_loss_mask(tok("qwen2"), text, "completion")
    assert tok("qwen2").decode(ids[mask]) == "It is 4."
    opened = text + "<|<eot>|><|<start_header>|><|<assistant_name>|><|<end_header>|>"
    ids, mask = encode_with_loss_mask(tok("qwen2"), opened, "completion")
    assert tok("qwen2").decode(ids[mask]) == "It is 4.<|im_end|>\n"


@pytest.mark.parametrize("max_length", [1, 5, 20, 33, 1000])
@pytest.mark.parametrize("loss_on", ["all", "assistant", "completion"])
def test_cut_batches_equal_whole_ones(tok, max_length: int, loss_on: str) -> None:
    t = tok("llama3")
    texts = [messages_to_markers(CHAT), "<|<bos>|>" + "long text " * 500, ""]
    texts.append(messages_to_markers([*CHAT, {"role": "assistant", "content": "words " * 3000}]))
    rows = encode_batch_with_loss_mask(t, texts, loss_on, max_length)
    for text, (ids, mask) in zip(texts, rows, strict=True):
        whole, whole_mask = encode_with_loss_mask(t, text, loss_on)
        assert ids.tolist() == whole[:max_length].tolist()
        assert mask.tolist() == whole_mask[:max_length].tolist()


def test_unknown_loss_mode(tok) -> None:
    with pytest.raises(ConfigError, match="unknown loss_on 'assistent'; did you mean 'assistant'"):
        encode_with_loss_mask(tok("llama3"), "a", "assistent")
