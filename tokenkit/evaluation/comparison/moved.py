"""How far rows of a vocabulary have moved in training: those that barely did were not learnt."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tokenkit.errors import ModelError
from tokenkit.evaluation.bits_per_byte import encode_documents
from tokenkit.evaluation.comparison.entry import Entry
from tokenkit.log import logger
from tokenkit.models.source import open_source_model
from tokenkit.tokenizers import ByteifiedTokenizer
from tokenkit.tokenizers.inspect import visible

BARELY = 0.01  # relative change below which a row counts as not moved
SHOWN = 24
# Edges of the histogram of relative changes
EDGES = (0.0, 1e-3, BARELY, 3e-2, 0.1, 0.3, 1.0, float("inf"))


def count_tokens(tok: ByteifiedTokenizer, texts: list[str]) -> Counter[int]:
    """How often each token stands in texts."""
    counts: Counter[int] = Counter()
    for row in encode_documents(tok, texts):
        counts.update(row.ids.tolist())
    return counts


def change(before: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
    """Relative change ‖after − before‖ / ‖before‖ and cosine of each row, ``[V]`` of ``[V, D]``."""
    before, after = before.double(), after.double()
    norm = before.norm(dim=1).clamp(min=1e-12)
    cosine = torch.nn.functional.cosine_similarity(before, after, dim=1)
    return (after - before).norm(dim=1) / norm, cosine


def moved_rows(entry: Entry, texts: list[str]) -> dict[str, dict[str, Any]] | None:
    """What has become of the rows of each matrix since the start; None if that is not known.

    Args:
        texts: in which tokens are counted.
    """
    if entry.start is None:
        return None
    try:
        before = open_source_model(entry.start).matrices()
        after = open_source_model(entry.folder).matrices()
    except ModelError as error:  # of a family that only transformers can open
        logger.warning(f"{entry.name}: what its rows began as is not known ({error})")
        return None
    tokens = [i for i, token in enumerate(entry.tok.tokens) if token and i < len(after[0])]
    counts = count_tokens(entry.tok, texts)
    found = {}
    for kind, old, new in zip(("input", "output"), before, after, strict=True):
        # A matrix that was tied and no longer is began as the input's.
        old = before[0] if old is None and new is not None else old
        if new is not None and old.shape[1] == new.shape[1] and len(old) >= max(tokens) + 1:
            found[kind] = _summary(entry.tok, tokens, counts, *change(old[tokens], new[tokens]))
    return found or None


def _summary(
    tok: ByteifiedTokenizer, tokens: list[int], counts: Counter[int], moved: Tensor, cosine: Tensor
) -> dict[str, Any]:
    used = torch.tensor([counts[i] > 0 for i in tokens])
    order = sorted(range(len(tokens)), key=lambda k: (-(counts[tokens[k]] > 0), float(moved[k])))
    histogram, _ = np.histogram(moved.numpy(), EDGES)
    in_texts, _ = np.histogram(moved[used].numpy(), EDGES)
    return {
        "rows": len(tokens),
        "barely": int((moved < BARELY).sum()),
        "rows_in_data": int(used.sum()),
        "barely_in_data": int((moved[used] < BARELY).sum()),
        "median_change": float(moved.median()),
        "histogram": {"all": histogram.tolist(), "in_data": in_texts.tolist()},
        "least": [
            {
                "token": visible(tok.token_bytes[tokens[k]]),
                "id": tokens[k],
                "change": float(moved[k]),
                "cosine": float(cosine[k]),
                "count": counts[tokens[k]],
            }
            for k in order[:SHOWN]
        ],
    }
