"""The ids that a tokenizer's files give: one a token, and close together."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from transformers import PreTrainedTokenizerFast

from tokenkit.errors import TokenizerError

if TYPE_CHECKING:
    from tokenkit.tokenizers.tokenizer import ByteifiedTokenizer

# Ids without a token are rows of the model's matrices that nothing uses.
MOST_GAPS = 2**17


def check_ids(hf: PreTrainedTokenizerFast, file: Path | None, name: str) -> None:
    """Refuse ids that two tokens share, or far beyond the number of tokens.

    Args:
        file: its ``tokenizer.json``, if it has one.

    Raises:
        TokenizerError: naming the first token and id that is wrong.
    """
    by_id: dict[int, str] = {}
    for token, i in hf.get_vocab().items():
        if by_id.setdefault(i, token) != token:
            raise TokenizerError(f"tokenizer '{name}': {by_id[i]!r} and {token!r} both have id {i}")
    highest = max(by_id, default=0)
    if highest > 2 * len(by_id) + MOST_GAPS:
        raise TokenizerError(
            f"tokenizer '{name}': {by_id[highest]!r} has id {highest}, far beyond its "
            f"{len(by_id)} tokens; ids are rows of a model's matrices"
        )
    for token, i in _added_ids(file):
        if by_id.get(i) != token:
            raise TokenizerError(
                f"tokenizer '{name}': its tokenizer.json gives the added token {token!r} the id "
                f"{i}, which is not the next one after its vocabulary"
            )


def _added_ids(file: Path | None) -> list[tuple[str, int]]:
    """Added tokens as ``tokenizer.json`` lists them; the library numbers them anew if it must."""
    if file is None:
        return []
    text = file.read_text(encoding="utf-8")
    at = text.find('"added_tokens"')
    begin = text.find("[", at)
    if at < 0 or begin < 0:
        return []
    listed, _ = json.JSONDecoder().raw_decode(text, begin)
    return [(token["content"], token["id"]) for token in listed]


def highest_own_id(tok: ByteifiedTokenizer) -> int:
    """The highest id of a token of the vocabulary itself: added tokens may have no rows yet."""
    added = set(tok.hf.added_tokens_decoder)
    return max((i for i in tok.ids.values() if i not in added), default=-1)
