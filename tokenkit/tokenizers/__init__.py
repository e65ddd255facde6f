"""Tokenizers as bytes: specs, families, chats, and alignment of two tokenizations.

Doors: :func:`load_tokenizer` → ``encode_text``, ``encode_chat``; :func:`align_pair`.
"""

from tokenkit.tokenizers.alignment.align import Alignment, align_rows
from tokenkit.tokenizers.alignment.pair import AlignedPair, AlignedSide, align_pair
from tokenkit.tokenizers.chat.marked import CHAT_MODES, apply_chat_mode, messages_to_markers
from tokenkit.tokenizers.chat.template import ChatTemplate, Conversation
from tokenkit.tokenizers.editing.extend import extend
from tokenkit.tokenizers.editing.prune import prune
from tokenkit.tokenizers.encode import encode_rows
from tokenkit.tokenizers.expansion import InputExpander
from tokenkit.tokenizers.families import FAMILIES, MARKERS, Family
from tokenkit.tokenizers.load import load_tokenizer, warn_of_missing_bos
from tokenkit.tokenizers.pairs.bias import PairBias, load_pair_bias
from tokenkit.tokenizers.roles import special_pairs
from tokenkit.tokenizers.rows import (
    LOSS_MODES,
    SPELT_MODES,
    Document,
    EncodedRow,
    Reading,
    Row,
    joint_form,
    normalised,
)
from tokenkit.tokenizers.sampling.sample import SampledTokenizer, SamplerSettings, sample_tokenizer
from tokenkit.tokenizers.sampling.substrings import count_pretokens
from tokenkit.tokenizers.sampling.surface_forms import surface_forms
from tokenkit.tokenizers.spec import TokenizerSpec, parse_spec
from tokenkit.tokenizers.tokenizer import ByteifiedTokenizer

__all__ = [
    "CHAT_MODES",
    "FAMILIES",
    "LOSS_MODES",
    "MARKERS",
    "SPELT_MODES",
    "AlignedPair",
    "AlignedSide",
    "Alignment",
    "ByteifiedTokenizer",
    "ChatTemplate",
    "Conversation",
    "Document",
    "EncodedRow",
    "Family",
    "InputExpander",
    "PairBias",
    "Reading",
    "Row",
    "SampledTokenizer",
    "SamplerSettings",
    "TokenizerSpec",
    "align_pair",
    "align_rows",
    "apply_chat_mode",
    "count_pretokens",
    "encode_rows",
    "extend",
    "joint_form",
    "load_pair_bias",
    "load_tokenizer",
    "messages_to_markers",
    "normalised",
    "parse_spec",
    "prune",
    "sample_tokenizer",
    "special_pairs",
    "surface_forms",
    "warn_of_missing_bos",
]
