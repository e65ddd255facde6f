"""Real tokenizers and real chat templates, where they are at hand, and dialogs to try them on."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import pytest
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast

TOKENIZER_NAMES = ("gpt2", "llama2", "llama3", "gemma2", "qwen2_5", "mistral_nemo")
MODEL = "smollm2-135m-instruct"
# Which tokenizer a template belongs to, by the beginning of its name; else gpt2.
OWNERS = {
    "llama3": "llama3",
    "qwen": "qwen2_5",
    "gemma": "gemma2",
    "phi3": "llama2",
}
_SPECIAL = re.compile(
    r"<\|[^<>|\s'\"{}]+\|?>|<[a-z_]+\|>|<｜[^<>｜\s'\"{}]+｜>|</?s>|\[/?INST\]|<(?:start|end)_of_turn>"
)

DIALOGS = {
    "plain": [("user", "What is 2+2?"), ("assistant", "It is 4.")],
    "system": [("system", "Be brief."), ("user", "日本?"), ("assistant", "Tokyo 👍")],
    "turns": [
        ("user", "Hi"),
        ("assistant", "Hello!\n\nHow are you?"),
        ("user", "Fine; and `you`?"),
        ("assistant", "def f():\n\treturn 1"),
    ],
    "blanks": [
        ("system", "\n One line.\n"),
        ("user", "  two spaces"),
        ("assistant", "\n\nnewlines before and after\n\n"),
        ("user", "\ttab \n"),
        ("assistant", " ok "),
    ],
    "quotes": [("user", '"Why?"'), ("assistant", 'He said "no\\yes" and\n"maybe"')],
    "words": [("user", "user"), ("assistant", "assistant\nmodel"), ("user", "system")],
}


def messages(name: str) -> list[dict[str, str]]:
    return [{"role": role, "content": content} for role, content in DIALOGS[name]]


def folder_of(variable: str) -> Path:
    """The folder in an environment variable; skips the test by name without it."""
    if not os.environ.get(variable):
        pytest.skip(f"needs {variable}")
    return Path(os.environ[variable])


def real_tokenizer(name: str) -> Path:
    if name == MODEL:
        return folder_of("TOKENKIT_MODELS") / name
    return folder_of("TOKENKIT_TOKENIZERS") / name


def template_names() -> list[str]:
    folder = os.environ.get("TOKENKIT_CHAT_TEMPLATES")
    return sorted(path.stem for path in Path(folder).glob("*.jinja")) if folder else []


def owner(template: str) -> str:
    return next((tok for start, tok in OWNERS.items() if template.startswith(start)), "gpt2")


def pair_names() -> list[tuple[str, str]]:
    """(tokenizer, template) pairs; "own" is the tokenizer's own template."""
    own = [(name, "own") for name in ("llama3", "qwen2_5", "mistral_nemo", MODEL)]
    return own + [(owner(name), name) for name in template_names()]


def make_pair(tokenizer: str, template: str, root: Path) -> Path:
    """A tokenizer folder with this template and the special tokens that the template writes."""
    source = real_tokenizer(tokenizer)
    if template == "own":
        return source
    folder = root / f"{tokenizer}-{template}"
    if folder.exists():
        return folder
    text = (folder_of("TOKENKIT_CHAT_TEMPLATES") / f"{template}.jinja").read_text(encoding="utf-8")
    hf = PreTrainedTokenizerFast.from_pretrained(source)
    new = sorted(set(_SPECIAL.findall(text)) - set(hf.get_vocab()))
    hf.add_tokens([AddedToken(t, special=True, normalized=False) for t in new], special_tokens=True)
    hf.backend_tokenizer.save(str(_made(folder) / "tokenizer.json"))
    shutil.copy(source / "tokenizer_config.json", folder)
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    config.pop("added_tokens_decoder", None)
    config |= {"chat_template": text, "tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder
