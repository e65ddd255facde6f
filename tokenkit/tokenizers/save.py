"""Write a tokenizer as a plain Hugging Face folder that needs no tokenkit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from tokenizers import Tokenizer, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from tokenkit.errors import TokenizerError
from tokenkit.tokenizers.control import CONFIG_FILE

if TYPE_CHECKING:
    from tokenkit.tokenizers.tokenizer import ByteifiedTokenizer

# Spaces, newlines, digits, non-ASCII text and combining characters: where pipelines differ.
PROBE = "  Hello world's 12345\n\n\tnaïve e\u0301 日本 👍 <|x|>\r\n"


def save_tokenizer(tok: ByteifiedTokenizer, folder: Path) -> None:
    """Write ``tokenizer.json`` and its configuration into ``folder``.

    The plain tokenizer encodes text to the same ids, puts BOS in front if texts begin with one,
    knows BOS, EOS and PAD, and has the tokenizer's chat template, verbatim.

    Raises:
        TokenizerError: if transformers would load the folder as something else.
    """
    folder.mkdir(parents=True, exist_ok=True)
    backend = Tokenizer.from_str(tok.hf.backend_tokenizer.to_str())
    backend.post_processor = _post_processor(tok)
    names = {name: getattr(tok.hf, name) for name in ("bos_token", "eos_token", "pad_token")}
    plain = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token=tok.hf.unk_token,
        padding_side="right",
        clean_up_tokenization_spaces=False,
        **{name: token for name, token in names.items() if token is not None},
    )
    plain.chat_template = _template(tok)
    plain.save_pretrained(folder)
    _edit_config(
        folder, tokenizer_class="PreTrainedTokenizerFast", add_bos_token=bool(tok.text_bos)
    )
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
    """Put BOS in front of a text if the tokenizer's texts have one, else nothing."""
    bos = tok.text_bos
    if not bos:
        return processors.TemplateProcessing(single="$A", pair="$A $B:1", special_tokens=[])
    return processors.TemplateProcessing(
        single=f"{bos} $A",
        pair=f"{bos} $A {bos}:1 $B:1",
        special_tokens=[(bos, tok.ids[bos])],
    )


def _template(tok: ByteifiedTokenizer) -> str | dict[str, str] | None:
    """What chats are written by, verbatim."""
    if tok.chat is None:
        return None
    texts = dict(tok.chat.texts)
    return texts["default"] if set(texts) == {"default"} else texts
