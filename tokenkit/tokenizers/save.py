"""Write a tokenizer as a plain Hugging Face folder that needs no tokenkit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from tokenizers import Regex, Tokenizer, normalizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from tokenkit.errors import TokenizerError
from tokenkit.tokenizers.alphabet import literal_bytes
from tokenkit.tokenizers.byteify import DOUBLED_LEADING_SPACE
from tokenkit.tokenizers.families import (
    ASSISTANT_NAME,
    BOS,
    END_HEADER,
    EOT,
    ROLE_MARKERS,
    START_HEADER,
    Family,
)

if TYPE_CHECKING:
    from tokenkit.tokenizers.tokenizer import ByteifiedTokenizer

CONFIG_FILE = "tokenizer_config.json"
# After a space was put in front of the text, take it away where there was one already.
PREFIX_SPACE_ONCE = (Regex(DOUBLED_LEADING_SPACE), " ")
# Spaces, newlines, digits, non-ASCII text and combining characters: where pipelines differ.
PROBE = "  Hello world's 12345\n\n\tnaïve e\u0301 日本 👍 <|x|>\r\n"


def save_tokenizer(tok: ByteifiedTokenizer, folder: Path) -> None:
    """Write ``tokenizer.json`` and its configuration into ``folder``.

    The plain tokenizer encodes text to the same ids, puts BOS in front if the family has one,
    knows the family's BOS, EOS and PAD, and has a chat template that writes the family's turns.

    Raises:
        TokenizerError: if transformers would load the folder as something else.
    """
    folder.mkdir(parents=True, exist_ok=True)
    backend = _plain_backend(tok)
    backend.post_processor = _post_processor(tok)
    names = {name: getattr(tok.hf, name) for name in ("bos_token", "eos_token", "pad_token")}
    plain = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token=tok.hf.unk_token,
        padding_side="right",
        clean_up_tokenization_spaces=False,
        **{name: token for name, token in names.items() if token is not None},
    )
    plain.chat_template = _chat_template(tok)
    plain.save_pretrained(folder)
    _edit_config(folder, tokenizer_class="PreTrainedTokenizerFast")
    if not _loads_equal(plain, folder):
        # Beside a model's config.json, transformers may prefer the model type's own tokenizer
        # class (Qwen2), which rebuilds the pipeline from the vocabulary. This key, which runs no
        # code without an "auto_map", makes that class read tokenizer.json as it is.
        _edit_config(folder, trust_remote_code=True, unk_token=None)
        if not _loads_equal(plain, folder):
            raise TokenizerError(
                f"transformers would load the tokenizer saved in '{folder}' as another class, "
                "which encodes text differently; load it with PreTrainedTokenizerFast"
            )


def _edit_config(folder: Path, **values: object) -> None:
    path = folder / CONFIG_FILE
    config = json.loads(path.read_text(encoding="utf-8")) | values
    path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _loads_equal(plain: PreTrainedTokenizerFast, folder: Path) -> bool:
    """Whether ``AutoTokenizer`` gives back the tokenizer that was saved."""
    loaded = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    return loaded.get_vocab() == plain.get_vocab() and loaded(PROBE) == plain(PROBE)


def _post_processor(tok: ByteifiedTokenizer) -> processors.PostProcessor:
    """Put BOS in front of a text if the family has one, else nothing."""
    bos = tok.family.replacements[BOS]
    if bos is None:
        return processors.TemplateProcessing(single="$A", pair="$A $B:1", special_tokens=[])
    ids = tok.marker_ids[BOS].tolist()
    prefix = " ".join(bos)
    return processors.TemplateProcessing(
        single=f"{prefix} $A",
        pair=f"{prefix} $A {prefix}:1 $B:1",
        special_tokens=list(zip(bos, ids, strict=True)),
    )


def _plain_backend(tok: ByteifiedTokenizer) -> Tokenizer:
    """A copy of the backend that cuts text at added tokens exactly as tokenkit does."""
    data = json.loads(tok.hf.backend_tokenizer.to_str())
    model_vocabulary = tok.hf.backend_tokenizer.get_vocab(with_added_tokens=False)
    kept: list[dict] = []
    for token in data["added_tokens"]:
        # The first match wins in tokenkit, as in the reference, but the longest in plain
        # tokenizers: "\n" hides Gemma's "\n\n". What is hidden must not be matched.
        hidden = any(token["content"].startswith(other["content"]) for other in kept)
        if not (hidden and token["content"] in model_vocabulary):
            kept.append(token | dict.fromkeys(("single_word", "lstrip", "rstrip"), False))
            kept[-1]["normalized"] = False
    data["added_tokens"] = kept
    backend = Tokenizer.from_str(json.dumps(data))
    if tok.manual_prefix_space:
        steps = [normalizers.Prepend(" "), normalizers.Replace(*PREFIX_SPACE_ONCE)]
        if backend.normalizer is not None:
            steps.append(backend.normalizer)
        backend.normalizer = normalizers.Sequence(steps)
    return backend


def _text(tok: ByteifiedTokenizer, marker: str) -> str:
    """What a marker looks like in text."""
    tokens = tok.family.replacements[marker] or ()
    return b"".join(map(literal_bytes, tokens)).decode()


def _chat_template(tok: ByteifiedTokenizer) -> str | None:
    """A template that writes turns as the family's markers do.

    A family without headers has none; it keeps the tokenizer's own unless it was changed.
    """
    family: Family = tok.family
    if not family.has_headers:
        changed = tok.spec.target not in ("", tok.spec.source) or tok.spec.conversion
        return None if changed else tok.hf.chat_template
    names = {role: _text(tok, marker) for role, marker in ROLE_MARKERS.items()}
    start, end, eot, bos = (_text(tok, m) for m in (START_HEADER, END_HEADER, EOT, BOS))
    allowed = ", ".join(names)

    def literal(value: object) -> str:
        """Jinja's literals of strings and dictionaries are JSON's."""
        return json.dumps(value, ensure_ascii=False)

    return (
        f"{{%- set names = {literal(names)} -%}}"
        f"{{{{- {literal(bos)} -}}}}"
        "{%- for message in messages -%}"
        "{%- if message['role'] not in names -%}"
        f"{{{{- raise_exception('unknown role (allowed: {allowed})') -}}}}"
        "{%- endif -%}"
        f"{{{{- {literal(start)} + names[message['role']] + {literal(end)} "
        f"+ message['content'] + {literal(eot)} -}}}}"
        "{%- endfor -%}"
        "{%- if add_generation_prompt -%}"
        f"{{{{- {literal(start + _text(tok, ASSISTANT_NAME) + end)} -}}}}"
        "{%- endif -%}"
    )
