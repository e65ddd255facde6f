"""Golden cases of tokenizers, alignment and FVT."""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path

from tokenkit.tokenizers import (
    ByteifiedTokenizer,
    apply_chat_mode,
    load_tokenizer,
    messages_to_markers,
)


@cache
def load(folder: Path, spec: str) -> ByteifiedTokenizer:
    """A golden spec; its folder lies beside the cases, or among the real tokenizers."""
    name = spec.split(":")[0]
    local = folder / "tokenizers" / name
    root = local.parent if local.exists() else Path(os.environ["TOKENKIT_TOKENIZERS"])
    return load_tokenizer(f"{root}/{spec}")


def read(folder: Path, case: dict) -> dict:
    return json.loads((folder / case["file"]).read_text())


def run_tokenizer(folder: Path, case: dict) -> None:
    data = read(folder, case)
    tok = load(folder, data["spec"])
    found = {"pad": tok.pad_id, "bos": tok.bos_id, "eos": tok.eos_id, "size": len(tok)}
    assert found == {key: data[key] for key in found}
    for prompt in data["prompts"]:
        marked = apply_chat_mode(prompt["prompt"], prompt["mode"])
        assert marked == prompt["preprocessed"]
        assert tok.encode(marked).tolist() == prompt["ids"], prompt
    for chat in data["messages"]:
        marked = messages_to_markers(chat["messages"])
        assert marked == chat["preprocessed"]
        assert tok.encode(marked).tolist() == chat["ids"], chat
    assert {key: tok.tokens[int(key)] for key in data["tokens"]} == data["tokens"]
    mask = tok.space_mask()
    assert mask.sum() == data["space_mask_count"]
    sample = {key: bool(mask[int(key)]) for key in data["space_mask_sample"]}
    assert sample == data["space_mask_sample"]


RUNNERS = {"tokenizer": run_tokenizer}
