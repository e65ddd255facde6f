"""Runners of the golden functions ``tokenizer``, ``alignment``, ``fvt`` and ``surface_forms``."""

from __future__ import annotations

import json
import os
import re
from functools import cache
from pathlib import Path

import numpy as np
import torch

from tokenkit.tokenizers import (
    MARKERS,
    ByteifiedTokenizer,
    InputExpander,
    align_rows,
    apply_chat_mode,
    load_tokenizer,
    messages_to_markers,
    surface_forms,
)
from tokenkit.tokenizers.chat.marked import encode_marked
from tokenkit.tokenizers.pairs.mined import compute_mined_mapping
from tokenkit.transfer.fvt import fvt

# Where we depart from the reference, row by row.
# - Of added tokens of which one begins another, the reference takes the first, the tokenizer
#   itself the longest (Gemma's "\n\n"): ids are then checked against the tokenizer.
# - The reference drops the token that a special token's name in text is for one side, with all
#   that follows; ours is one chunk of equal bytes.
DROPPED = "<|im_start|> is not special here <bos> nor this"
# - Subwords of more than 16 bytes are told by their last 16 there. At these places (row, position)
#   a newline and 32 spaces are named where a newline and 16 were read.
EXPANDED_TOO_FAR: dict[str, set[tuple[int, int]]] = {
    "bpe_a:source=Llama3": {(0, 127), (0, 213), (4, 55), (4, 290)},
    "spm:source=Gemma2": set(),
}

SPACE_MASK_MODE = "space+tab+newline+special"


@cache
def load(root: Path, spec: str) -> ByteifiedTokenizer:
    """A golden tokenizer by its spec, which has a folder's name for the path."""
    name, colon, options = spec.partition(":")
    return load_tokenizer(f"{root / name}{colon}{options}")


def find(folder: Path, spec: str, real: bool = False) -> ByteifiedTokenizer:
    return load(Path(os.environ["TOKENKIT_TOKENIZERS"]) if real else folder / "tokenizers", spec)


def own_ids(tok: ByteifiedTokenizer, marked: str) -> list[int]:
    """Ids of a marked text by the plain tokenizer and the family's table, piece by piece."""
    ids: list[int] = []
    for piece in re.split(f"({'|'.join(map(re.escape, MARKERS))})", marked):
        if piece in MARKERS:
            ids += [tok.ids[token] for token in tok.family.replacements[piece] or ()]
        else:
            ids += tok.hf.backend_tokenizer.encode(piece, add_special_tokens=False).ids
    return ids


def check_ids(tok: ByteifiedTokenizer, marked: str, found: list[int], reference: list[int]) -> bool:
    """Whether the reference's ids are the tokenizer's own, too."""
    assert found == own_ids(tok, marked)
    if found == reference:
        return True
    assert "gemma2" in str(tok.spec) and "\n\n" in marked, marked
    return False


def run_tokenizer(folder: Path, case: dict) -> None:
    expected = json.loads((folder / case["file"]).read_text())
    tok = find(folder, expected["spec"], expected["real"])
    assert (tok.pad_id, tok.bos_id, tok.eos_id) == tuple(expected[k] for k in ("pad", "bos", "eos"))
    assert len(tok) == len(tok.tokens) == len(tok.byte_lengths) == expected["size"]
    for row in expected["prompts"]:
        marked = apply_chat_mode(row["prompt"], row["mode"])
        assert marked == row["preprocessed"]
        check_ids(tok, marked, tok.encode(marked).tolist(), row["ids"])
    for row in expected["messages"]:
        marked = messages_to_markers(row["messages"])
        assert marked == row["preprocessed"]
        check_ids(tok, marked, tok.encode(marked).tolist(), row["ids"])
    assert {i: tok.tokens[int(i)] for i in expected["tokens"]} == expected["tokens"]
    mask = tok.space_mask(SPACE_MASK_MODE)
    assert mask.dtype == bool and mask.sum() == expected["space_mask_count"]
    sample = expected["space_mask_sample"]
    assert {i: int(mask[int(i)]) for i in sample} == {i: int(v) for i, v in sample.items()}


def run_alignment(folder: Path, case: dict) -> None:
    """Align all rows at once and each alone, which must not make a difference."""
    expected = json.loads((folder / case["file"]).read_text())
    toks = [find(folder, expected[side], expected["real"]) for side in ("teacher", "student")]
    for batch in (expected["rows"], *([row] for row in expected["rows"])):
        encoded = [[encode_marked(tok, row["text"]) for row in batch] for tok in toks]
        found = align_rows(*toks, *encoded, kinds=("unconstrained", "space"))
        for i, row in enumerate(batch):
            ids = [side[i].ids.tolist() for side in encoded]
            same = [
                check_ids(tok, row["text"], own, row[f"{name}_ids"])
                for tok, own, name in zip(toks, ids, ("teacher", "student"), strict=True)
            ]
            if not all(same):
                continue
            for k, side in enumerate(("teacher", "student")):
                assert [toks[k].tokens[t] for t in encoded[k][i].ids] == row[f"{side}_tokens"]
                chunks = (found.teacher_chunks, found.student_chunks)[k]
                if row["text"] == DROPPED:
                    assert all((kind[i] >= 0).all() for kind in chunks.values())
                    continue
                for kind in ("unconstrained", "space"):
                    if isinstance(row.get(kind), dict):  # else the reference raised
                        assert chunks[kind][i].tolist() == row[kind][side], (kind, side, row)


def run_fvt(folder: Path, case: dict) -> None:
    source, target = find(folder, case["source"]), find(folder, case["target"])
    with np.load(folder / case["file"]) as arrays:
        data = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    matrices = list(data["source_embeddings"].unbind(1))
    made, report = fvt(source, target, matrices, seed=1)
    fixed = data["deterministic_rows"].bool()
    expected = data["target_embeddings"]
    assert torch.stack(made, 1).shape == expected.shape
    tolerance = {"rtol": case.get("rtol", 1e-5), "atol": case.get("atol", 1e-6)}
    torch.testing.assert_close(torch.stack(made, 1)[fixed], expected[fixed], **tolerance)
    assert sum(report.values()) == len(target)
    assert report["fallback"] == int((~fixed).sum())


def run_surface_forms(folder: Path, case: dict) -> None:
    expected = json.loads((folder / case["file"]).read_text())
    tok = find(folder, expected["hypernet_tokenizer"])
    tokens = find(folder, expected["tokens_of"]).tokens
    # The reference gives a byte that is no text the id that equals its value.
    forms, lengths = surface_forms(tokens, tok, expected["maxlen"], byte_offset=0)
    assert forms.tolist() == expected["matrix"]
    assert (lengths > expected["maxlen"]).sum() == expected["truncated"]


def run_mined_mapping(folder: Path, case: dict) -> None:
    """Any of equally near tokens is right."""
    expected = json.loads((folder / case["file"]).read_text())
    teacher, student = find(folder, expected["teacher"]), find(folder, expected["target"])
    mapping = compute_mined_mapping(teacher, student)
    for i, token in enumerate(student.tokens):
        assert mapping.distances[i] == expected["distances"][token]
        found, theirs = (teacher.tokens[m[i]] for m in (mapping.teacher_ids, expected["mapping"]))
        assert mapping.distances[i] > 0 or found == theirs


def run_expand_input_ids(folder: Path, case: dict) -> None:
    expected = json.loads((folder / case["file"]).read_text())
    names = ("byte_tokenizer", "subword_tokenizer")
    byte, subword = (find(folder, expected[name]) for name in names)
    expander = InputExpander(byte, subword)
    departures = set()
    for number, row in enumerate(expected["rows"]):
        found = expander.expand(np.array([row["ids"]]))[0].tolist()
        read = ""
        pairs = zip(row["ids"], found, row["expanded"], strict=True)
        for place, (i, ours, theirs) in enumerate(pairs):
            read += byte.tokens[i]
            if ours != theirs:
                assert not read.endswith(subword.tokens[theirs])
                assert read.endswith(subword.tokens[ours])
                departures.add((number, place))
    assert departures == EXPANDED_TOO_FAR[expected["subword_tokenizer"]]


RUNNERS = {
    "expand_input_ids": run_expand_input_ids,
    "mined_mapping": run_mined_mapping,
    "tokenizer": run_tokenizer,
    "alignment": run_alignment,
    "fvt": run_fvt,
    "surface_forms": run_surface_forms,
}
