"""A tokenizer with another ``tokenizer.json`` but everything else as it was."""

from __future__ import annotations

import json
from typing import Any

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from tokenkit.tokenizers.tokenizer import ByteifiedTokenizer

NAMED_TOKENS = ("bos_token", "eos_token", "pad_token", "unk_token")


def state_of(tok: ByteifiedTokenizer) -> dict[str, Any]:
    """The tokenizer's ``tokenizer.json``, parsed; the caller's to change."""
    return json.loads(tok.hf.backend_tokenizer.to_str())


def rebuild(tok: ByteifiedTokenizer, data: dict[str, Any]) -> ByteifiedTokenizer:
    """The tokenizer with other contents: its family, special tokens' names and template remain.

    The post-processor, which knows ids, is left out; :meth:`ByteifiedTokenizer.save` makes one.

    Raises:
        TokenizerError: if a token of the family cannot be written any more.
    """
    backend = Tokenizer.from_str(json.dumps(data | {"post_processor": None}))
    named = {name: getattr(tok.hf, name) for name in NAMED_TOKENS}
    hf = PreTrainedTokenizerFast(
        tokenizer_object=backend, **{name: token for name, token in named.items() if token}
    )
    hf.chat_template = tok.hf.chat_template
    return ByteifiedTokenizer(
        hf,
        tok.spec,
        tok.family,
        tok.kind,
        adds_prefix_space=tok.adds_prefix_space,
        chat=tok.chat,
        text_bos=tok.text_bos,
        normal_form=tok.normal_form,
        control_tokens=tok.control_tokens,
    )
