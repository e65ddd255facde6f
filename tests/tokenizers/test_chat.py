"""Which tokens a loss covers."""

from __future__ import annotations

import pytest

from tests.tokenizers.specs import tokenizer
from tokenkit.errors import ConfigError, DataError
from tokenkit.tokenizers import apply_chat_mode, encode_with_loss_mask, messages_to_markers

MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "2+2?"},
    {"role": "assistant", "content": "4"},
    {"role": "user", "content": "3+3?"},
    {"role": "assistant", "content": "6, user"},
]


@pytest.mark.parametrize(
    "spec", ["bpe_a:source=Llama3", "bpe_b:source=Qwen2", "spm:source=Gemma2", "bpe_a:source=GPT2"]
)
def test_loss_mask_covers_what_assistants_say(spec):
    tok = tokenizer(spec)
    marked = messages_to_markers(MESSAGES)
    end = tok.decode(tok.marker_ids("<|<eot>|>"))

    def covered(loss_on):
        ids, mask = encode_with_loss_mask(tok, marked, loss_on)
        assert ids.tolist() == tok.encode(marked).tolist()
        return tok.decode(ids[mask])

    assert covered("assistant") == f"4{end}6, user{end}"
    assert covered("completion") == f"6, user{end}"
    ids, mask = encode_with_loss_mask(tok, marked, "all")
    assert mask.all() and len(ids)


def test_plain_text_is_covered_whole():
    marked = apply_chat_mode("some text", "direct_encode")
    _, mask = encode_with_loss_mask(tokenizer("bpe_a:source=Llama3"), marked, "assistant")
    assert mask.all()


def test_truncation_keeps_ids_and_mask_together():
    ids, mask = encode_with_loss_mask(
        tokenizer("bpe_a:source=Llama3"), messages_to_markers(MESSAGES), "assistant", max_length=9
    )
    assert len(ids) == len(mask) == 9


def test_bad_messages():
    with pytest.raises(DataError, match="unknown role 'narrator'"):
        messages_to_markers([{"role": "narrator", "content": "x"}])
    with pytest.raises(DataError, match="content is NoneType"):
        messages_to_markers([{"role": "user", "content": None}])
    with pytest.raises(ConfigError, match="unknown chat mode"):
        apply_chat_mode("x", "direct")
