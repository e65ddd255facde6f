"""OMP: against an explicit loop with numpy's least squares, in float64."""

from __future__ import annotations

import shutil
from importlib import import_module

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.models.tiny import save_tiny
from tests.tokenizers.samples import GOLDEN, tokenizer
from tests.transfer.test_fvt import origins_of, slow
from tokenkit.errors import ConfigError, ModelError
from tokenkit.export.zero_shot import open_donor
from tokenkit.transfer.fvt import fvt
from tokenkit.transfer.omp import Donor, approximate, omp


def loop(y: np.ndarray, atoms: np.ndarray, k: int) -> np.ndarray:
    """Weights ``[S]`` of ``k`` rows of ``atoms``."""
    unit = atoms / np.linalg.norm(atoms, axis=1, keepdims=True)
    chosen: list[int] = []
    residual, solved = y, np.zeros(0)
    for _ in range(k):
        chosen.append(int(np.abs(unit @ residual).argmax()))
        solved = np.linalg.lstsq(atoms[chosen].T, y, rcond=None)[0]
        residual = y - solved @ atoms[chosen]
    weights = np.zeros(len(atoms))
    np.add.at(weights, chosen, solved)
    return weights


def dense(chosen: torch.Tensor, weights: torch.Tensor, size: int) -> np.ndarray:
    return torch.zeros(len(chosen), size).scatter_add(1, chosen, weights).double().numpy()


@pytest.mark.parametrize("k", [1, 2, 8, 24])
@pytest.mark.parametrize("candidates", [0, 300])
@pytest.mark.parametrize("chunk", [8192, 37])
def test_approximate_equals_plain_loop(monkeypatch, k: int, candidates: int, chunk: int) -> None:
    module = import_module("tokenkit.transfer.omp")
    monkeypatch.setattr(module, "CHUNK_ROWS", chunk)
    monkeypatch.setattr(module, "VALUES", 10_000)
    generator = torch.Generator().manual_seed(k)
    matrix = torch.randn(400, 48, generator=generator) * torch.rand(400, 1, generator=generator)
    basis = torch.randperm(400, generator=generator)[:300]
    targets = torch.randn(40, 48, generator=generator)
    chosen, weights = approximate(targets, matrix, basis, k, candidates)
    assert chosen.shape == weights.shape == (40, k)
    expected = [loop(y, matrix[basis].double().numpy(), k) for y in targets.double().numpy()]
    np.testing.assert_allclose(dense(chosen, weights, 300), np.stack(expected), atol=1e-3)


def test_candidates_are_the_nearest_directions() -> None:
    generator = torch.Generator().manual_seed(0)
    matrix, targets = (torch.randn(n, 32, generator=generator) for n in (200, 20))
    chosen, weights = approximate(targets, matrix, torch.arange(200), 6, candidates=25)
    unit = torch.nn.functional.normalize(matrix.double(), dim=1)
    for row, y in enumerate(targets.double()):
        near = (unit @ y).abs().topk(25).indices
        expected = np.zeros(200)
        expected[near] = loop(y.numpy(), matrix[near].double().numpy(), 6)
        got = dense(chosen[row : row + 1], weights[row : row + 1], 200)[0]
        np.testing.assert_allclose(got, expected, atol=1e-4)


def test_exact_where_the_basis_spans_the_space() -> None:
    """With more picks than dimensions, twins and zeros in the basis, the sum is the target."""
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(30, 8, generator=generator)
    matrix[3] = matrix[4]
    matrix[5] = 0
    targets = torch.cat([torch.randn(10, 8, generator=generator), matrix[4:6]])
    chosen, weights = approximate(targets, matrix, torch.arange(30), 64)
    assert chosen.shape == (12, 8) and weights.isfinite().all()
    sums = torch.einsum("bk,bkd->bd", weights, matrix[chosen])
    torch.testing.assert_close(sums, targets, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["no donor", "tied donor", "untied donor"])
@pytest.mark.parametrize(("source", "target"), [("qwen2", "llama3"), ("qwen2", "gemma2")])
def test_equals_plain_loop(tmp_path, source: str, target: str, kind: str) -> None:
    s, t = tokenizer(source, tmp_path), tokenizer(target, tmp_path)
    generator = torch.Generator().manual_seed(0)
    matrices = [torch.randn(len(s), 16, generator=generator) for _ in range(2)]
    theirs = [torch.randn(len(t), 24, generator=generator) for _ in range(kind.count("tied") * 2)]
    if kind == "tied donor":
        theirs[1] = theirs[0]
    donor = Donor(t, theirs[0], None if kind == "tied donor" else theirs[1]) if theirs else None
    made, report = omp(s, t, matrices, k=5, donor=donor, candidates=0)
    known = [slow(s, t, matrix.double()) for matrix in matrices]
    by_id = origins_of(s, t)
    shared = [
        i for i, (origin, _) in enumerate(by_id) if origin == "exact" and t.ids[t.tokens[i]] == i
    ]
    rows = [by_id[i][1][0] for i in shared]
    for place, (matrix, new, (composed, origins)) in enumerate(
        zip(matrices, made, known, strict=True)
    ):
        space = theirs[place][shared] if theirs else matrix[rows]
        assert theirs or report == origins
        checked = 0
        for i, (origin, _) in enumerate(by_id):
            if origin in ("special", "exact"):
                assert torch.equal(new[i].double(), composed[i])
                continue
            if theirs:
                y = theirs[place][i].double()
            elif i in composed:
                y = composed[i]
            else:
                continue
            weights = loop(y.numpy(), space.double().numpy(), 5)
            expected = weights @ matrix.double().numpy()[rows]
            np.testing.assert_allclose(new[i].numpy(), expected, atol=1e-3)
            checked += 1
        assert checked == report["averaged"] > 50


@pytest.mark.parametrize("candidates", [0, 8])
def test_each_matrix_of_an_untied_donor_is_pursued_by_itself(tmp_path, candidates: int) -> None:
    """A new token is 2 a + 3 b of the donor's input rows, but 2 c + 3 d of its output rows."""
    s, t = tokenizer("qwen2", tmp_path), tokenizer("llama3", tmp_path)
    by_id = origins_of(s, t)
    shared = [i for i, (origin, _) in enumerate(by_id) if origin == "exact"]
    rows = [by_id[i][1][0] for i in shared]
    new = [i for i, (origin, _) in enumerate(by_id) if origin not in ("exact", "special")]
    width = len(shared)
    generator = torch.Generator().manual_seed(0)
    sources = [torch.randn(len(s), 16, generator=generator) for _ in range(2)]
    theirs = [torch.zeros(len(t), width) for _ in range(2)]
    wanted = [torch.zeros(len(new), 16) for _ in range(2)]
    for source, donated, expected in zip(sources, theirs, wanted, strict=True):
        donated[shared] = torch.eye(width)
        for place, i in enumerate(new):
            a, b = torch.randperm(width, generator=generator)[:2].tolist()
            donated[i, a], donated[i, b] = 2, 3
            expected[place] = 2 * source[rows[a]] + 3 * source[rows[b]]
    made, _ = omp(s, t, sources, donor=Donor(t, *theirs), k=4, candidates=candidates)
    for matrix, expected in zip(made, wanted, strict=True):
        torch.testing.assert_close(matrix[new], expected, atol=1e-4, rtol=1e-4)
    # One matrix is asked for: the donor's output matrix is none of its business.
    single, _ = omp(s, t, sources[:1], donor=Donor(t, *theirs), k=4, candidates=candidates)
    assert len(single) == 1 and torch.equal(single[0], made[0])


@pytest.mark.parametrize("tied", [True, False])
def test_a_donor_is_opened_with_both_matrices(tmp_path, tied: bool) -> None:
    source = save_tiny(tmp_path, "llama", vocab_size=1505, tie_word_embeddings=tied)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(GOLDEN / "bpe_a" / name, source / name)
    donor = open_donor(f"{source}:source=Llama3")
    model = AutoModelForCausalLM.from_pretrained(source)
    assert torch.equal(donor.matrix, model.get_input_embeddings().weight)
    assert (donor.output is None) if tied else torch.equal(donor.output, model.lm_head.weight)


def test_tokens_that_the_donor_lacks_are_averaged(tmp_path) -> None:
    s, t = tokenizer("llama3", tmp_path), tokenizer("qwen2", tmp_path)
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(len(s), 16, generator=generator)
    donor = Donor(t, torch.randn(700, 8, generator=generator))
    new, plain = (f(s, t, [matrix], **o)[0][0] for f, o in ((omp, {"donor": donor}), (fvt, {})))
    assert torch.equal(new[700:], plain[700:]) and not torch.equal(new[:700], plain[:700])


def test_checks_its_input(tmp_path) -> None:
    s, t = tokenizer("llama3", tmp_path), tokenizer("qwen2", tmp_path)
    matrix = torch.randn(len(s), 4)
    with pytest.raises(ConfigError, match="k = 0 must be at least 1"):
        omp(s, t, [matrix], k=0)
    with pytest.raises(ConfigError, match="candidates = 3 must be 0 .* at least k = 4"):
        omp(s, t, [matrix], k=4, candidates=3)
    with pytest.raises(ModelError, match="has no token of"):
        omp(s, t, [matrix], donor=Donor(t, torch.zeros(0, 4)))
