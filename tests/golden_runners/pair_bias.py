"""Runner of the golden function ``pair_bias``."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from tests.golden_runners.tokenizers import find
from tokenkit.tokenizers.pairs.statistics import pair_bias, unigram_probabilities


def run_pair_bias(folder: Path, case: dict) -> None:
    expected = json.loads((folder / case["file"]).read_text())
    toks = [find(folder, expected[side]) for side in ("teacher", "target")]
    probabilities = []
    for side, tok in zip(("teacher", "target"), toks, strict=True):
        counts = np.zeros(len(tok), np.int64)
        for i, count in expected[f"{side}_counts"].items():
            counts[int(i)] = count
        probabilities.append(unigram_probabilities(tok, counts))
        np.testing.assert_allclose(probabilities[-1], expected[f"{side}_probs"], rtol=1e-5)
    found = pair_bias(*toks, *probabilities, blank_bias=None)
    assert found.bias1.nnz == found.bias2.nnz == expected["n_pairs"]
    for teacher_token, target_token, *biases in expected["pairs"]:
        pair = toks[0].ids[teacher_token], toks[1].ids[target_token]
        actual = [matrix[pair] for matrix in (found.bias1, found.bias2)]
        np.testing.assert_allclose(actual, biases, rtol=1e-5, atol=1e-9, err_msg=str(pair))


RUNNERS = {"pair_bias": run_pair_bias}
