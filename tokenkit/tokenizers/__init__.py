"""Tokenizers: byteified, with family roles, chat markers and alignment."""

from tokenkit.tokenizers.align import Alignment, align
from tokenkit.tokenizers.byteify import ByteifiedTokenizer
from tokenkit.tokenizers.chat import (
    CHAT_MODES,
    apply_chat_mode,
    encode_batch_with_loss_mask,
    encode_with_loss_mask,
    messages_to_markers,
)
from tokenkit.tokenizers.families import FAMILIES, MARKERS, Family
from tokenkit.tokenizers.load import load_tokenizer
from tokenkit.tokenizers.pair_bias import load_pair_bias
from tokenkit.tokenizers.spec import TokenizerSpec, parse_spec

__all__ = [
    "CHAT_MODES",
    "FAMILIES",
    "MARKERS",
    "Alignment",
    "ByteifiedTokenizer",
    "Family",
    "TokenizerSpec",
    "align",
    "apply_chat_mode",
    "encode_batch_with_loss_mask",
    "encode_with_loss_mask",
    "load_pair_bias",
    "load_tokenizer",
    "messages_to_markers",
    "parse_spec",
]
