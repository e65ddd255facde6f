"""Tokens of two tokenizers that play the same role in their families."""

from __future__ import annotations

from tokenkit.tokenizers.families import (
    ASSISTANT_NAME,
    BOS,
    END_HEADER,
    EOT,
    PAD,
    START_HEADER,
    SYSTEM_NAME,
    USER_NAME,
)
from tokenkit.tokenizers.tokenizer import ByteifiedTokenizer

# Where two markers are one token (Qwen3: BOS and PAD), the later one decides.
COPIED_MARKERS = (
    ASSISTANT_NAME,
    USER_NAME,
    SYSTEM_NAME,
    EOT,
    END_HEADER,
    START_HEADER,
    PAD,
    BOS,
)


def context_id(tok: ByteifiedTokenizer) -> int:
    """What a document follows where all of it is scored: the BOS of texts, else EOS."""
    return tok.ids[tok.text_bos] if tok.text_bos else tok.eos_id


def special_pairs(
    source_tok: ByteifiedTokenizer, target_tok: ByteifiedTokenizer, rows: int
) -> dict[int, int]:
    """Target id -> source id (below ``rows``) of tokens that have the same role."""
    by_token = {}
    for marker in COPIED_MARKERS:
        theirs, ours = (t.family.replacements[marker] or ("",) for t in (source_tok, target_tok))
        source = source_tok.ids.get(theirs[0], rows)
        if source < rows and ours[0]:
            by_token[ours[0]] = source
    # Two ids may spell the same token ("Ċ" as a piece and as a byte-fallback piece).
    return {i: by_token[t] for i, t in enumerate(target_tok.tokens) if t in by_token}
