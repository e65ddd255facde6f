"""From a spec to a tokenizer. Nothing from the model folder is executed."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from transformers.utils import cached_file

from tokenkit.errors import TokenizerError
from tokenkit.log import warn_once
from tokenkit.tokenizers.alphabet import BYTE_CHARACTERS
from tokenkit.tokenizers.byteify import (
    ByteKind,
    adds_prefix_space,
    detect_byte_kind,
    lone_unicode_form,
    missing_bytes,
)
from tokenkit.tokenizers.chat.family_template import family_template
from tokenkit.tokenizers.chat.template import ChatTemplate
from tokenkit.tokenizers.control import control_tokens, read_config, text_bos
from tokenkit.tokenizers.derive import derive_family, known_family
from tokenkit.tokenizers.editing.extend import add_tokens, check_additions, put_space_before_pieces
from tokenkit.tokenizers.families import BOS, EOS, FAMILIES, PAD, Family, get_family
from tokenkit.tokenizers.ids import check_ids
from tokenkit.tokenizers.spec import TokenizerSpec, parse_spec
from tokenkit.tokenizers.tokenizer import ByteifiedTokenizer

_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


def load_tokenizer(
    spec: str,
    tokens_to_add: Sequence[str] = (),
    like: ByteifiedTokenizer | None = None,
    date: str = "",
) -> ByteifiedTokenizer:
    """Load the tokenizer that a spec names.

    The special tokens that its texts and chats need, then ``tokens_to_add``, are added where
    missing; tokens that exist keep their ids. Every call builds its own objects.

    Args:
        spec: ``path_or_id[:source=Family][:target=Family][:conversion=kind]``.
        like: whose chats and BOS rule it takes over, if the spec names no family.
        date: ISO date that chat templates take today for; "" is today.

    Raises:
        TokenizerError: if the spec is malformed, nothing is found there, it is not a fast
            tokenizer, or its tokens cannot be inverted to bytes.
    """
    parsed = parse_spec(spec)
    hf = _load_hf(parsed)
    form = _speech(hf, parsed, like, date)
    data = _pipeline(hf)
    kind: ByteKind
    if parsed.conversion == "byte":
        hf = _byte_level_tokenizer(hf, form)
        data, kind = _pipeline(hf), "byte_level"
    elif parsed.conversion == "prebyteified":
        kind = "byte_level"
    else:
        kind = detect_byte_kind(data, spec)
    if parsed.conversion == "manual_add_prefix_space":
        put_space_before_pieces(hf.backend_tokenizer)
        data = _pipeline(hf)
    add_tokens(hf, [token for token in form.tokens if token not in form.plain], special=True)
    add_tokens(hf, form.plain, special=False)
    check_additions(hf, tokens_to_add, kind, spec)
    add_tokens(hf, tokens_to_add, special=False)
    tok = ByteifiedTokenizer(
        hf,
        parsed,
        form.family,
        kind,
        adds_prefix_space=adds_prefix_space(data),
        chat=form.chat,
        text_bos=form.text_bos if form.text_bos in hf.get_vocab() else "",
        normal_form=lone_unicode_form(data),
        control_tokens=form.control,
    )
    _warn_of_missing_bytes(tok)
    return tok


@dataclass(frozen=True)
class _Speech:
    """How a tokenizer is to write texts and chats.

    Attributes:
        tokens: special tokens that it needs for this.
        control: those of them that chats and texts are written with.
        plain: those of them that are no special ones, such as ``<tool_call>``.
    """

    family: Family
    chat: ChatTemplate | None
    text_bos: str
    tokens: tuple[str, ...]
    control: tuple[str, ...]
    plain: tuple[str, ...] = ()


def _speech(
    hf: PreTrainedTokenizerFast, spec: TokenizerSpec, like: ByteifiedTokenizer | None, date: str
) -> _Speech:
    """By the family that the spec names as target, else as ``like``, else as the files say."""
    own = ChatTemplate.of(hf, date)
    if like is not None and not (spec.source or spec.target):
        needed = dict.fromkeys([*like.control_tokens, *like.family.special_tokens])
        plain = _plain(like.hf, like.control_tokens)
        control = like.control_tokens
        return _Speech(like.family, like.chat, like.text_bos, tuple(needed), control, plain)
    source = get_family(spec.source) if spec.source else derive_family(hf, str(spec))
    if spec.target:
        family = get_family(spec.target)
        begin = family.replacements[BOS]
        written = ChatTemplate({"default": family_template(family)}, {}, date)
        tokens = family.special_tokens
        return _Speech(family, written, begin[0] if begin else "", tokens, tokens)
    if own is None and (spec.source or source.has_headers):
        own = ChatTemplate({"default": family_template(source)}, {}, date)
    named, known = (source if spec.source else None), known_family(hf.get_vocab())
    bos = text_bos(hf, read_config(spec.path, spec.revision or "main"), named, known)
    control = control_tokens(hf, own, bos)
    if not spec.source:
        special = {t.content for t in hf.added_tokens_decoder.values() if t.special}
        more = (token for token in control if token in special)
        tokens = tuple(dict.fromkeys([*source.special_tokens, *more]))
        source = replace(source, special_tokens=tokens)
    return _Speech(source, own, bos, source.special_tokens, control, _plain(hf, control))


def _plain(hf: PreTrainedTokenizerFast, tokens: Sequence[str]) -> tuple[str, ...]:
    """Those added tokens that are no special ones."""
    special = {token.content for token in hf.added_tokens_decoder.values() if token.special}
    return tuple(token for token in tokens if token not in special)


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
        if not found and Path(spec.path).is_dir() and not _slow_files(Path(spec.path)):
            raise TokenizerError("the folder has no tokenizer.json")
        loader = PreTrainedTokenizerFast if found else AutoTokenizer
        hf = loader.from_pretrained(spec.path, **options)
    except Exception as error:  # transformers and tokenizers raise many kinds, bare ones too
        reason = (str(error).strip().splitlines() or [""])[0]
        if not isinstance(error, OSError | ValueError | TokenizerError):  # a word or nothing
            reason = f"{type(error).__name__}: {reason}"
        raise TokenizerError(f"cannot load tokenizer '{spec.path}': {reason}") from error
    if not isinstance(hf, PreTrainedTokenizerFast):
        raise TokenizerError(
            f"tokenizer '{spec.path}' has no fast backend (it is a {type(hf).__name__}); convert "
            "it to a tokenizer.json first"
        )
    check_ids(hf, Path(found) if found else None, spec.path)
    hf.backend_tokenizer.no_truncation()
    hf.backend_tokenizer.no_padding()
    return hf


def _slow_files(folder: Path) -> list[Path]:
    """Files that ``transformers`` makes a tokenizer of without a ``tokenizer.json``."""
    names = ("*.model", "vocab.*", "tokenizer_config.json", "*.tiktoken")
    return [path for name in names for path in folder.glob(name)]


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


def _byte_level_tokenizer(hf: PreTrainedTokenizerFast, speech: _Speech) -> PreTrainedTokenizerFast:
    """A tokenizer of 256 bytes and the tokens that its chats and texts use.

    All pieces weigh the same, so a template token such as "ĊĊ" is also used in running text.
    """
    family = speech.family
    control = [token for token in speech.control if token not in speech.plain]
    special = [*family.special_tokens, *control]
    template = family.template_tokens() | set(speech.control)
    vocabulary = [*BYTE_CHARACTERS, *sorted(template - set(BYTE_CHARACTERS))]
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
    add_tokens(byte_level, [t for t in dict.fromkeys(special) if t in template], special=True)
    return byte_level


def _warn_of_missing_bytes(tok: ByteifiedTokenizer) -> None:
    missing = missing_bytes(set(tok.ids))
    if missing:
        warn_once(
            f"tokenizer '{tok.spec}' has no token for {len(missing)} of the 256 bytes (the first "
            f"is 0x{missing[0]:02X}); text with them loses characters"
        )


def warn_of_missing_bos(source: ByteifiedTokenizer, target: ByteifiedTokenizer) -> None:
    """Say so if a model that was trained with BOS is to do without."""
    if source.text_bos and not target.text_bos:
        warn_once(
            f"tokenizer '{target.spec}' (family {target.family.name}) puts no BOS before texts, "
            f"but '{source.spec}' does; models rely on it as an attention sink, and the first "
            f"token of a text has a score on one side only. Name no family in the spec to keep "
            f"the model's own rule, or one with BOS, such as ':target={_with_bos(source.family)}'"
        )


def _with_bos(family: Family) -> str:
    return family.name if family.name in FAMILIES else "Qwen3"
