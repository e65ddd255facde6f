"""The loss on chunks that docs/extending.md shows, against loops over tokens."""

from __future__ import annotations

import re

import pytest
import torch

from tests.documented.shown import ROOT
from tests.losses.reference import count_of, make_loss, random_case, value_of
from tokenkit.losses import LOSSES


@pytest.fixture
def documented(monkeypatch):
    """Register it for one test."""
    blocks = re.findall(
        r"^```python\n(.*?)^```", (ROOT / "docs/extending.md").read_text("utf-8"), re.M | re.S
    )
    monkeypatch.setattr(LOSSES, "_items", dict(LOSSES._items))
    exec(compile(next(b for b in blocks if "ChunkSquare" in b), "extending.md", "exec"), {})


def chunk_logprobs(side, row):
    """Chunk → summed log-prob of its counted tokens, None with one that has no probability."""
    seq, found = side.seq, {}
    for place, chunk in enumerate(seq.chunks["unconstrained"][row].tolist()):
        if chunk >= 0 and seq.loss_mask[row, place]:
            known = found.get(chunk, 0.0) is not None and seq.scored[row, place]
            value = side.token_logprob[row, place]
            found[chunk] = found.get(chunk, 0.0) + value if known else None
    return found


@pytest.mark.parametrize("gap", [True, False])
def test_chunk_square(documented, gap):
    student, teacher = random_case(seed=1, gap=gap)
    loss, _ = make_loss("chunk_square")
    count = count_of(loss, student, teacher)
    value, _ = value_of(loss, student, teacher, count)
    terms = []
    for row in range(len(student.seq.ids)):
        q, p = chunk_logprobs(student, row), chunk_logprobs(teacher, row)
        both = [chunk for chunk in q if None not in (q[chunk], p.get(chunk))]
        terms += [(p[chunk] - q[chunk]) ** 2 / 2 for chunk in both]
    assert count == len(terms) > 3
    torch.testing.assert_close(value, sum(terms) / len(terms))
