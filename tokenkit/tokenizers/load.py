"""Load a tokenizer by its spec."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import tokenizers
from tokenizers import AddedToken, Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from tokenkit.errors import TokenizerError
from tokenkit.log import logger
from tokenkit.tokenizers.alphabet import BYTE_TO_CHAR, uses_byte_alphabet
from tokenkit.tokenizers.byteify import ByteifiedTokenizer
from tokenkit.tokenizers.families import FAMILIES, Family, guess_family
from tokenkit.tokenizers.spec import TokenizerSpec, parse_spec

UNICODE_FORMS = ("NFC", "NFD", "NFKC", "NFKD")


def _open(spec: TokenizerSpec) -> PreTrainedTokenizerFast:
    folder = Path(spec.path).expanduser()
    name, _, revision = spec.path.partition("@")
    location, options = (folder, {}) if folder.exists() else (name, {"revision": revision or None})
    try:
        # Model-specific classes rebuild the pipeline; tokenizer.json is what was trained with.
        hf = PreTrainedTokenizerFast.from_pretrained(location, **options)
    except Exception as error:
        _refuse_slow(spec, location, options)
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise TokenizerError(f"tokenizer '{spec.path}' cannot be loaded: {reason}") from error
    return hf


def _refuse_slow(spec: TokenizerSpec, location: Path | str, options: dict) -> None:
    """Raise if ``transformers`` could load the tokenizer, but only without a fast backend."""
    try:
        hf = AutoTokenizer.from_pretrained(location, **options)
    except Exception:
        return
    raise TokenizerError(
        f"tokenizer '{spec.path}' has no tokenizer.json ({type(hf).__name__}); save it once "
        "with a fast backend (AutoTokenizer.from_pretrained(…).save_pretrained(…))"
    )


def _drop_unicode_normalizer(hf: PreTrainedTokenizerFast, spec: TokenizerSpec) -> None:
    """Teacher and student must read the same bytes, so a normaliser of its own is taken away."""
    normalizer = hf.backend_tokenizer.normalizer
    if normalizer is None:
        return
    kind = type(normalizer).__name__
    if kind in UNICODE_FORMS:
        logger.warning(
            f"tokenizer '{spec.path}': its {kind} normaliser is switched off, because teacher and "
            "student must see the same bytes; text that is not in this form is encoded otherwise "
            "than the model is used to"
        )
        hf.backend_tokenizer.normalizer = None
    elif kind == "Sequence" and any(form in repr(normalizer) for form in UNICODE_FORMS):
        raise TokenizerError(
            f"tokenizer '{spec.path}': a sequence of normalisers with "
            f"{'/'.join(f for f in UNICODE_FORMS if f in repr(normalizer))} is not supported, "
            "since teacher and student must see the same bytes"
        )
    elif "Lowercase" in repr(normalizer) or "StripAccents" in repr(normalizer):
        raise TokenizerError(
            f"tokenizer '{spec.path}' changes letters before encoding ({kind}); its tokens cannot "
            "be inverted to the text's bytes"
        )


def _source_family(hf: PreTrainedTokenizerFast, spec: TokenizerSpec) -> Family:
    if spec.source:
        return FAMILIES[spec.source]
    family = guess_family(set(hf.get_vocab()))
    if family is None:
        raise TokenizerError(
            f"tokenizer spec '{spec}': no family fits its special tokens; add :source= with one "
            f"of {', '.join(FAMILIES)}"
        )
    logger.info(f"tokenizer '{spec.path}': taken as source={family.name}")
    return family


def _to_bytes(hf: PreTrainedTokenizerFast, family: Family) -> None:
    """Turn ``hf`` into a byte-level tokenizer that knows the family's template tokens only."""
    template = {t for tokens in family.replacements.values() for t in tokens or ()}
    pieces = [*BYTE_TO_CHAR, *sorted(template - set(BYTE_TO_CHAR))]
    # All scores are equal: of several segmentations Unigram keeps the one with longest pieces.
    backend = Tokenizer(tokenizers.models.Unigram([(piece, 0.0) for piece in pieces]))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(
        add_prefix_space=False, use_regex=False
    )
    backend.decoder = tokenizers.decoders.ByteLevel()
    special = [AddedToken(t, special=True, normalized=False) for t in family.special_tokens
               if t in template]  # fmt: skip
    backend.add_special_tokens(special)
    hf._tokenizer = backend


def load_tokenizer(spec: str, tokens_to_add: Sequence[str] = ()) -> ByteifiedTokenizer:
    """Load, convert and byteify the tokenizer a spec names.

    Args:
        spec: see :mod:`tokenkit.tokenizers.spec`.
        tokens_to_add: further special tokens, added after the family's.

    Raises:
        TokenizerError: if the spec is malformed, or the tokenizer is missing, has no fast
            backend, or cannot be inverted to bytes.
    """
    parsed = parse_spec(spec)
    hf = _open(parsed)
    source = _source_family(hf, parsed)
    target = FAMILIES[parsed.target] if parsed.target else source
    _drop_unicode_normalizer(hf, parsed)
    byte_alphabet = uses_byte_alphabet(hf.backend_tokenizer.to_str())
    if byte_alphabet is None:
        model = json.loads(hf.backend_tokenizer.to_str())["model"]["type"]
        raise TokenizerError(
            f"tokenizer '{parsed.path}' cannot be inverted to bytes: its {model} model neither "
            "works on bytes nor marks spaces"
        )
    if target is not source and source.has_headers and target.name != source.name:
        logger.info(f"tokenizer '{parsed}': special tokens and chat turns of {target.name}")
    hf.add_tokens([AddedToken(t, special=True, normalized=False) for t in target.special_tokens])
    if parsed.conversion == "byte":
        _to_bytes(hf, target)
        byte_alphabet = True
    elif parsed.conversion == "prebyteified":
        byte_alphabet = True
    if tokens_to_add:
        hf.add_tokens([AddedToken(t, special=True, normalized=False) for t in tokens_to_add])
    return ByteifiedTokenizer(
        hf,
        target,
        parsed,
        byte_alphabet=byte_alphabet,
        add_prefix_space=parsed.conversion == "manual_add_prefix_space",
    )
