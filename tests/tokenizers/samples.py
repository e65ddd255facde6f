"""Small tokenizers of every kind: the golden ones and variants made from them."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

from tokenkit.tokenizers import ByteifiedTokenizer, load_tokenizer

GOLDEN = Path(__file__).parents[1] / "golden" / "tokenizers" / "tokenizers"

# Families with and without headers and BOS, byte-level, SentencePiece and single bytes
SPECS = {
    "llama3": "bpe_a:source=Llama3",
    "qwen2": "bpe_b:source=Qwen2",
    "qwen3": "bpe_a:source=Llama3:target=Qwen3",
    "llama3_of_b": "bpe_b:source=Qwen2:target=Llama3",
    "gemma2": "spm:source=Gemma2",
    "gemma3": "bpe_b:source=GPT2:target=Gemma3",
    "phi3": "bpe_a:source=Phi3",
    "gpt2": "bpe_b:source=GPT2",
    "mistral": "bpe_a:source=Mistral",
    "bytes": "bpe_a:source=Llama3:conversion=byte",
    "gemma_bytes": "spm:source=Gemma2:conversion=byte",
    "spaced": "bpe_b:source=Llama3:conversion=manual_add_prefix_space",
}
# These come from variants of the golden SentencePiece tokenizer that put a space before text.
PREFIXED = {
    "tiny_llama": ("prepend", "TinyLlama"),
    "phi3_spm": ("prepend", "Phi3"),
    "metaspace": ("metaspace", "Gemma2"),
}
NAMES = (*SPECS, *PREFIXED)


def read_json(name: str) -> dict:
    return json.loads((GOLDEN / name / "tokenizer.json").read_text(encoding="utf-8"))


def write_folder(folder: Path, data: dict, config: dict | None = None) -> Path:
    """A tokenizer folder with this ``tokenizer.json``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(data), encoding="utf-8")
    config = {"tokenizer_class": "PreTrainedTokenizerFast"} | (config or {})
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def prefixed(kind: str) -> dict:
    """The golden SentencePiece tokenizer as Llama 2 ("prepend") or with a metaspace."""
    data = read_json("spm")
    replace = data["normalizer"]
    if kind == "prepend":
        steps = [{"type": "Prepend", "prepend": "▁"}, replace]
        data["normalizer"] = {"type": "Sequence", "normalizers": steps}
        data["pre_tokenizer"] = None
    else:
        data["normalizer"] = None
        metaspace = {"replacement": "▁", "prepend_scheme": "always", "split": False}
        data["pre_tokenizer"] = {"type": "Metaspace", **metaspace}
    return data


TEMPLATE_TOKENS = ("<s>", "</s>", "<|im_start|>", "<|im_end|>", "[INST]", "[/INST]")


def with_template(
    folder: Path, template: object, base: str = "bpe_a", **config: object
) -> ByteifiedTokenizer:
    """A tokenizer that brings its own chat template and these special tokens."""
    config = {"bos_token": "<s>", "eos_token": "</s>", "chat_template": template} | config
    data = read_json(base)
    known = {token["content"] for token in data["added_tokens"]}
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    size = len(data["model"]["vocab"])
    new = [token for token in TEMPLATE_TOKENS if token not in known]
    data["added_tokens"] += [
        {"id": size + k, "content": token, "special": True} | flags for k, token in enumerate(new)
    ]
    return load_tokenizer(str(write_folder(folder, data, config)))


@cache
def tokenizer(name: str, root: Path) -> ByteifiedTokenizer:
    """One of NAMES; ``root`` is where variants are written."""
    if name in SPECS:
        return load_tokenizer(f"{GOLDEN}/{SPECS[name]}")
    kind, family = PREFIXED[name]
    return load_tokenizer(f"{write_folder(root / kind, prefixed(kind))}:source={family}")
