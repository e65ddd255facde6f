"""Text in which special tokens cannot be spelt out.

A user's text may contain ``<|im_end|>``. A *guarded* tokenizer takes that for ordinary characters;
only where a character of its own (U+10FFFD) stands before a special token is it one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

import numpy as np
from tokenizers import AddedToken, Tokenizer

GUARD = "\U0010fffd"
_SURROGATES = re.compile("[\ud800-\udfff]")


def well_formed(text: str) -> str:
    """The text with halves of surrogate pairs, which have no bytes, as U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return _SURROGATES.sub("\N{REPLACEMENT CHARACTER}", text)
    return text


class Guard:
    """A copy of a tokenizer whose special tokens are written with a guard character.

    Args:
        backend: the tokenizer; it stays as it is.
    """

    def __init__(self, backend: Tokenizer) -> None:
        data = json.loads(backend.to_str())
        added = data.pop("added_tokens")
        self.backend = Tokenizer.from_str(json.dumps(data | {"added_tokens": []}))
        self.special: set[int] = {token["id"] for token in added if token["special"]}
        plain: list[AddedToken] = []
        guarded: list[AddedToken] = []
        for token in added:
            flags = {k: token[k] for k in ("single_word", "lstrip", "rstrip", "normalized")}
            if token["special"]:
                guarded.append(AddedToken(GUARD + token["content"], special=True, **flags))
            else:
                plain.append(AddedToken(token["content"], special=False, **flags))
        self.backend.add_tokens(plain)
        self.backend.add_special_tokens(guarded)
        # Ids of added tokens may have moved; the model's own have not.
        size = self.backend.get_vocab_size(with_added_tokens=True)
        highest = max([size - 1, *(token["id"] for token in added)])
        self.ids = np.arange(highest + 1, dtype=np.int32)
        for token in added:
            name = GUARD + token["content"] if token["special"] else token["content"]
            self.ids[self.backend.token_to_id(name)] = token["id"]

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Ids of texts, int32 ``[T]`` each.

        Special tokens are made where guarded, and by a model that has them among its pieces.
        """
        texts = [well_formed(text) for text in texts]
        encodings = self.backend.encode_batch_fast(texts, add_special_tokens=False)
        return [self.ids[np.array(encoding.ids, np.int64)] for encoding in encodings]
