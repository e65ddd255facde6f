"""Tokenizers as bytes: specs, families, chats, and alignment of two tokenizations."""

from tokenkit.tokenizers.align import Alignment, align
from tokenkit.tokenizers.chat import (
    CHAT_MODES,
    LOSS_MODES,
    apply_chat_mode,
    encode_batch_with_loss_mask,
    encode_with_loss_mask,
    messages_to_markers,
)
from tokenkit.tokenizers.expansion import InputExpander
from tokenkit.tokenizers.extend import extend
from tokenkit.tokenizers.families import FAMILIES, MARKERS, Family
from tokenkit.tokenizers.load import load_tokenizer, warn_of_missing_bos
from tokenkit.tokenizers.pair_bias import PairBias, load_pair_bias
from tokenkit.tokenizers.prune import prune
from tokenkit.tokenizers.roles import special_pairs
from tokenkit.tokenizers.sampling import SampledTokenizer, SamplerSettings, sample_tokenizer
from tokenkit.tokenizers.spec import TokenizerSpec, parse_spec
from tokenkit.tokenizers.substrings import count_pretokens
from tokenkit.tokenizers.surface_forms import surface_forms
from tokenkit.tokenizers.tokenizer import ByteifiedTokenizer

__all__ = [
    "CHAT_MODES",
    "FAMILIES",
    "LOSS_MODES",
    "MARKERS",
    "Alignment",
    "ByteifiedTokenizer",
    "Family",
    "InputExpander",
    "PairBias",
    "SampledTokenizer",
    "SamplerSettings",
    "TokenizerSpec",
    "align",
    "apply_chat_mode",
    "count_pretokens",
    "encode_batch_with_loss_mask",
    "encode_with_loss_mask",
    "extend",
    "load_pair_bias",
    "load_tokenizer",
    "messages_to_markers",
    "parse_spec",
    "prune",
    "sample_tokenizer",
    "special_pairs",
    "surface_forms",
    "warn_of_missing_bos",
]
