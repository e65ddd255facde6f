"""From a spec to a tokenizer. Nothing from the model folder is executed."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from transformers.utils import cached_file

from tokenkit.errors import TokenizerError
from tokenkit.log import logger
from tokenkit.tokenizers.alphabet import BYTE_CHARACTERS
from tokenkit.tokenizers.byteify import (
    adds_prefix_space,
    detect_byte_kind,
    lone_unicode_form,
    missing_bytes,
)
from tokenkit.tokenizers.derive import derive_family
from tokenkit.tokenizers.extend import add_tokens, check_additions
from tokenkit.tokenizers.families import BOS, EOS, FAMILIES, PAD, Family, get_family
from tokenkit.tokenizers.spec import TokenizerSpec, parse_spec
from tokenkit.tokenizers.tokenizer import ByteifiedTokenizer

_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


def load_tokenizer(spec: str, tokens_to_add: Sequence[str] = ()) -> ByteifiedTokenizer:
    """Load the tokenizer that a spec names.

    The target family's special tokens, then ``tokens_to_add``, are added where missing; tokens
    that exist keep their ids. Every call builds its own objects.

    Args:
        spec: ``path_or_id[:source=Family][:target=Family][:conversion=kind]``.

    Raises:
        TokenizerError: if the spec is malformed, nothing is found there, it is not a fast
            tokenizer, or its tokens cannot be inverted to bytes.
    """
    parsed = parse_spec(spec)
    hf = _load_hf(parsed)
    source = get_family(parsed.source) if parsed.source else derive_family(hf, spec)
    family = get_family(parsed.target) if parsed.target else source
    data = _pipeline(hf)
    if parsed.conversion == "byte":
        hf = _byte_level_tokenizer(hf, family)
        data, kind = _pipeline(hf), "byte_level"
    elif parsed.conversion == "prebyteified":
        kind = "byte_level"
    else:
        kind = detect_byte_kind(data, spec)
    _remove_unicode_form(hf, data, spec)
    add_tokens(hf, family.special_tokens if parsed.conversion != "byte" else (), special=True)
    check_additions(hf, tokens_to_add, kind, spec)
    add_tokens(hf, tokens_to_add, special=False)
    tok = ByteifiedTokenizer(
        hf,
        parsed,
        family,
        kind,
        adds_prefix_space=adds_prefix_space(data),
        manual_prefix_space=parsed.conversion == "manual_add_prefix_space",
    )
    _warn_of_missing_bytes(tok)
    return tok


def _load_hf(spec: TokenizerSpec) -> PreTrainedTokenizerFast:
    """The plain tokenizer, as its ``tokenizer.json`` says rather than as a class rebuilds it."""
    if not Path(spec.path).is_dir() and not _HUB_ID.fullmatch(spec.path):
        raise TokenizerError(
            f"tokenizer folder '{spec.path}' does not exist (expected a folder with a "
            "tokenizer.json, or a hub id like org/name)"
        )
    options: dict[str, Any] = {"revision": spec.revision or "main", "trust_remote_code": False}
    try:
        found = cached_file(
            spec.path,
            "tokenizer.json",
            revision=options["revision"],
            _raise_exceptions_for_missing_entries=False,
        )
        loader = PreTrainedTokenizerFast if found else AutoTokenizer
        hf = loader.from_pretrained(spec.path, **options)
    except Exception as error:  # transformers and tokenizers raise many kinds, bare ones too
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise TokenizerError(f"cannot load tokenizer '{spec.path}': {reason}") from error
    if not isinstance(hf, PreTrainedTokenizerFast):
        raise TokenizerError(
            f"tokenizer '{spec.path}' has no fast backend (it is a {type(hf).__name__}); convert "
            "it to a tokenizer.json first"
        )
    hf.backend_tokenizer.no_truncation()
    hf.backend_tokenizer.no_padding()
    return hf


def _pipeline(hf: PreTrainedTokenizerFast) -> dict[str, Any]:
    """What ``tokenizer.json`` says of the tokenizer, the vocabulary left out."""
    backend = hf.backend_tokenizer

    def state(part: Any) -> dict[str, Any] | None:
        return None if part is None else json.loads(part.__getstate__())

    model = {"type": type(backend.model).__name__}
    if model["type"] == "BPE":
        model["byte_fallback"] = backend.model.byte_fallback
    elif model["type"] == "Unigram":
        model["byte_fallback"] = state(backend.model).get("byte_fallback", False)
    return {
        "model": model,
        "normalizer": state(backend.normalizer),
        "pre_tokenizer": state(backend.pre_tokenizer),
        "decoder": state(backend.decoder),
    }


def _remove_unicode_form(hf: PreTrainedTokenizerFast, data: dict[str, Any], spec: str) -> None:
    form = lone_unicode_form(data)
    if form:
        logger.warning(
            f"tokenizer '{spec}' normalises text to {form}; tokenkit removes this normaliser, "
            "because two tokenizers must see the same bytes. Text that is not in this form "
            "already is encoded differently than by the original tokenizer."
        )
        hf.backend_tokenizer.normalizer = None


def _byte_level_tokenizer(hf: PreTrainedTokenizerFast, family: Family) -> PreTrainedTokenizerFast:
    """A tokenizer of 256 bytes and the tokens the family's template uses.

    All pieces weigh the same, so a template token such as "ĊĊ" is also used in running text.
    """
    template = sorted(family.template_tokens() - set(BYTE_CHARACTERS))
    vocabulary = [*BYTE_CHARACTERS, *template]
    backend = Tokenizer(models.Unigram([(token, 0.0) for token in vocabulary]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    names = {"pad_token": PAD, "bos_token": BOS, "eos_token": EOS}
    tokens = {}
    for name, marker in names.items():
        replacement = family.replacements[marker]
        # Where the family has none, the tokenizer keeps its own if the token survives.
        token = replacement[0] if replacement else getattr(hf, name)
        if token in vocabulary:
            tokens[name] = token
    byte_level = PreTrainedTokenizerFast(tokenizer_object=backend, **tokens)
    add_tokens(byte_level, [t for t in family.special_tokens if t in template], special=True)
    return byte_level


def _warn_of_missing_bytes(tok: ByteifiedTokenizer) -> None:
    missing = missing_bytes(set(tok.ids))
    if missing:
        logger.warning(
            f"tokenizer '{tok.spec}' has no token for {len(missing)} of the 256 bytes (the first "
            f"is 0x{missing[0]:02X}); text with them loses characters"
        )


def warn_of_missing_bos(source: ByteifiedTokenizer, target: ByteifiedTokenizer) -> None:
    """Say so if a model that was trained with BOS is to do without."""
    if source.marker_ids[BOS] is not None and target.marker_ids[BOS] is None:
        logger.warning(
            f"tokenizer '{target.spec}' (family {target.family.name}) puts no BOS before texts, "
            f"but the model's own '{source.spec}' does; models rely on it as an attention sink. "
            f"Consider a target family with BOS, such as ':target={_with_bos(source.family)}'"
        )


def _with_bos(family: Family) -> str:
    return family.name if family.name in FAMILIES else "Qwen3"
