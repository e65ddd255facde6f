"""Prompts with neutral markers: messages, modes, and what becomes of the markers."""

from __future__ import annotations

import numpy as np
import pytest

from tests.tokenizers.samples import NAMES
from tests.tokenizers.templates import CHAT
from tokenkit.errors import ConfigError, DataError
from tokenkit.tokenizers import (
    CHAT_MODES,
    Document,
    Reading,
    apply_chat_mode,
    encode_rows,
    messages_to_markers,
)
from tokenkit.tokenizers.chat.marked import encode_marked


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
def test_marked_rows_have_the_tokenizers_ids_and_every_marker_is_a_unit(tok, name: str) -> None:
    t = tok(name)
    marked = messages_to_markers(CHAT)
    row = encode_marked(t, marked)
    assert row.marked and row.counted.all()
    np.testing.assert_array_equal(row.ids, t.encode(marked))
    units = [part for part in row.parts() if part.kind == "unit"]
    pieces = t.split(marked)[1::2]
    present = [k for k, marker in enumerate(pieces) if t.marker_ids[marker] is not None]
    assert [part.key for part in units] == [2 * k + 1 for k in present]
    for part, k in zip(units, present, strict=True):
        expected = b"".join(t.token_bytes[i] for i in t.marker_ids[pieces[k]])
        assert row.data[part.begin : part.end] == expected
    contents = [row.data[p.begin : p.end].decode() for p in row.parts() if p.kind == "content"]
    assert [text for text in contents if text] == [message["content"] for message in CHAT]


def test_parsed_texts_may_have_markers(tok) -> None:
    t = tok("qwen3")
    text = "a<|<eot>|>"
    (row,) = encode_rows(t, [Document(text)], Reading(spelt="parse"))
    np.testing.assert_array_equal(row.ids, t.encode(f"<|<bos>|>{text}"))
    (row,) = encode_rows(t, [Document(text, bos=False)], Reading(spelt="parse"))
    np.testing.assert_array_equal(row.ids, t.encode(text))
    (row,) = encode_rows(t, [Document(text, bos=False, eos=False)])
    assert t.decode(row.ids) == text, "otherwise they are text"
    assert not set(row.ids.tolist()) & t.special_ids
