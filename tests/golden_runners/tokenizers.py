"""Golden cases of tokenizers, alignment and FVT."""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path

import numpy as np
import torch

from tokenkit.tokenizers import (
    ByteifiedTokenizer,
    align,
    apply_chat_mode,
    load_tokenizer,
    messages_to_markers,
)
from tokenkit.transfer import fvt


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


def run_alignment(folder: Path, case: dict) -> None:
    """All rows at once, padded, so that the batch is aligned as training does."""
    data = read(folder, case)
    teacher, student = load(folder, data["teacher"]), load(folder, data["student"])
    rows = data["rows"]
    arrays = {}
    for side in ("teacher", "student"):
        length = max(len(row[f"{side}_ids"]) for row in rows) + 3
        ids, mask = np.zeros((len(rows), length), np.int64), np.zeros((len(rows), length), bool)
        for number, row in enumerate(rows):
            n = len(row[f"{side}_ids"])
            ids[number, :n], mask[number, :n] = row[f"{side}_ids"], True
        arrays[side] = (ids, mask)
    (t_ids, t_mask), (s_ids, s_mask) = arrays["teacher"], arrays["student"]
    found = align(teacher, student, t_ids, s_ids, t_mask, s_mask, ("unconstrained", "space"))
    for number, row in enumerate(rows):
        for kind in ("unconstrained", "space"):
            if not isinstance(row[kind], dict) or "teacher" not in row[kind]:
                continue  # the reference raised
            for side, chunks in (
                ("teacher", found.teacher_chunks),
                ("student", found.student_chunks),
            ):
                ours = chunks[kind][number]
                n = len(row[f"{side}_ids"])
                assert ours[:n].tolist() == row[kind][side], (kind, side, row["text"])
                assert (ours[n:] == -1).all()


def run_fvt(folder: Path, case: dict) -> None:
    with np.load(folder / case["file"]) as arrays:
        data = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    source, target = load(folder, case["source"]), load(folder, case["target"])
    matrices = list(data["source_embeddings"].unbind(1))
    made, report = fvt(source, target, matrices, seed=0)
    fixed = data["deterministic_rows"]
    for ours, expected in zip(made, data["target_embeddings"].unbind(1), strict=True):
        assert ours.shape == expected.shape
        torch.testing.assert_close(ours[fixed], expected[fixed], rtol=2e-4, atol=2e-6)
    assert sum(report.values()) == len(target)
    assert report["fallback"] == int((~fixed).sum())


RUNNERS = {"tokenizer": run_tokenizer, "alignment": run_alignment, "fvt": run_fvt}
