"""What a tokenizer puts around texts and into chats: its BOS rule and its control tokens."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast
from transformers.utils import cached_file

from tokenkit.errors import DataError
from tokenkit.tokenizers.byteify import components
from tokenkit.tokenizers.chat.template import ChatTemplate, Conversation
from tokenkit.tokenizers.families import BOS, Family

CONFIG_FILE = "tokenizer_config.json"
_LOOKS_SPECIAL = re.compile(r"[<\[]\S+[>\]]")


def text_bos(
    hf: PreTrainedTokenizerFast, config: dict[str, Any], named: Family | None, known: Family | None
) -> str:
    """The token that texts begin with, "" if none.

    The post-processor decides if it is one that adds tokens, then ``add_bos_token`` of the
    configuration. Where neither says anything, the family that the spec names is believed, or a
    ``known`` one of whose BOS the configuration speaks.
    """
    added = _template_bos(hf)
    if added is not None:
        return added
    bos = hf.bos_token or ""
    if config.get("add_bos_token") is not None:
        return bos if config["add_bos_token"] else ""
    if named is not None:
        return (named.replacements[BOS] or ("",))[0]
    replacement = known.replacements[BOS] if known else None
    return bos if replacement and replacement[0] == bos else ""


def _template_bos(hf: PreTrainedTokenizerFast) -> str | None:
    """The token that the post-processor puts first; None if it adds none at all.

    ``transformers`` gives tokenizers without a post-processor one that adds nothing, so that this
    says nothing.
    """
    processor = hf.backend_tokenizer.post_processor
    if processor is None:
        return None
    state = json.loads(processor.__getstate__())
    for part in components(state):
        if part["type"] == "TemplateProcessing" and part["special_tokens"]:
            return part["single"][0].get("SpecialToken", {}).get("id", "")
    return None


def read_config(path: str, revision: str) -> dict[str, Any]:
    """``tokenizer_config.json``, {} if there is none or it is no object."""
    found = cached_file(
        path, CONFIG_FILE, revision=revision, _raise_exceptions_for_missing_entries=False
    )
    if not found:
        return {}
    try:
        config = json.loads(Path(found).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, dict) else {}


def control_tokens(
    hf: PreTrainedTokenizerFast, chat: ChatTemplate | None, bos: str
) -> tuple[str, ...]:
    """Special tokens that texts and chats are written with, in the order of their ids."""
    wanted = {bos, hf.eos_token, hf.pad_token}
    added = {
        token.content: i
        for i, token in hf.added_tokens_decoder.items()
        if token.special or _LOOKS_SPECIAL.fullmatch(token.content)
    }
    if chat is not None:
        wanted |= {value for value in chat.tokens.values() if isinstance(value, str)}
        written = [*chat.texts.values(), *_trials(chat)]
        wanted |= {token for token in added if any(token in text for text in written)}
    return tuple(sorted(wanted & added.keys(), key=added.__getitem__))


def _trials(chat: ChatTemplate) -> Iterator[str]:
    """Small chats as the template writes them: it may put tokens together from pieces."""
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    system = {"role": "system", "content": "c"}
    tool = {"role": "tool", "content": "d"}
    for messages in (turns, [system, *turns], [*turns, tool]):
        try:
            yield chat.render(Conversation(messages, open=messages[-1] is not tool))[0]
        except DataError:
            continue
