"""AdamW with bf16 moments against torch's with fp32 ones, and what only rounding can break."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from torch import nn

from tests.launch import train
from tests.training.sharded_adamw import after_steps
from tests.training.test_damage import Run
from tokenkit.config.schema import OptimizerConfig
from tokenkit.ops import gpu_compile
from tokenkit.parallelisms.pieces import Box
from tokenkit.training import low_precision_adamw as module
from tokenkit.training.low_precision_adamw import LowPrecisionAdamW, Rows
from tokenkit.training.optimizer import build_optimizer, step_unless

SHAPES = [(40, 37), (37,), (5,), (), (3, 4, 5), (60, 100)]
BETAS = (0.9, 0.999)


def parameters() -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]


def groups(listed: list[nn.Parameter]) -> list[dict]:
    return [
        {"params": listed[:2], "lr": 3e-3, "weight_decay": 0.1},
        {"params": listed[2:], "betas": (0.0, 0.95)},
    ]


def give_gradients(listed: list[nn.Parameter], step: int) -> None:
    """Of very different sizes; every third step one parameter has none, as in a phase."""
    generator = torch.Generator().manual_seed(step)
    for number, parameter in enumerate(listed):
        gradient = torch.randn(parameter.shape, generator=generator) * 10.0 ** (number - 3)
        parameter.grad = None if number == 1 and step % 3 == 0 else gradient


def nearest(values: torch.Tensor, bits: torch.Tensor) -> torch.Tensor:
    return values.bfloat16()


def moments(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    return [tensor for state in optimizer.state.values() for tensor in state.values()]


def everything(listed, optimizer) -> list[torch.Tensor]:
    return [p.detach().clone() for p in listed] + [t.clone() for t in moments(optimizer)]


def train_both(ours: type, steps: int = 40, **options):
    """Parameters and optimizer of ours and of torch's, after the same gradients."""
    found = []
    for kind, more in ((ours, options), (torch.optim.AdamW, {})):
        listed = parameters()
        optimizer = kind(groups(listed), lr=1e-2, betas=BETAS, weight_decay=0.0, **more)
        for step in range(steps):
            give_gradients(listed, step)
            optimizer.step()
        found.append((listed, optimizer))
    return found


def test_formula_is_torchs(monkeypatch):
    """Without rounding, and with fp32 moments, there is no difference."""
    monkeypatch.setattr(module, "round_stochastically", lambda values, bits: values)
    first = module.first_state
    monkeypatch.setattr(module, "first_state", lambda p, _, device: first(p, torch.float32, device))
    (ours, optimizer), (theirs, reference) = train_both(LowPrecisionAdamW)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=2e-6, atol=2e-6)
        for name, value in reference.state[b].items():
            torch.testing.assert_close(optimizer.state[a][name], value, rtol=2e-5, atol=1e-9)


def test_stays_close_to_fp32_moments():
    (ours, optimizer), (theirs, reference) = train_both(LowPrecisionAdamW)
    for a, b, start in zip(ours, theirs, parameters(), strict=True):
        assert (a - b).norm() < 0.02 * (b - start).norm()
        state = optimizer.state[a]
        assert state["exp_avg"].dtype == state["exp_avg_sq"].dtype == torch.bfloat16
        assert state["step"] == reference.state[b]["step"]
        v, exact = state["exp_avg_sq"].float(), reference.state[b]["exp_avg_sq"]
        assert ((v - exact) / exact).abs().max() < 0.1


def second_moment(rounding=None, steps: int = 700) -> tuple[float, float]:
    """Mean and closed form of v, begun at 1, where all gradients are a half."""
    with pytest.MonkeyPatch.context() as patch:
        if rounding is not None:
            patch.setattr(module, "round_stochastically", rounding)
        parameter = nn.Parameter(torch.zeros(4000))
        optimizer = LowPrecisionAdamW([parameter], betas=BETAS)
        optimizer.state[parameter]["exp_avg_sq"].fill_(1.0)
        for _ in range(steps):
            parameter.grad = torch.full_like(parameter, 0.5)
            optimizer.step()
    mean = optimizer.state[parameter]["exp_avg_sq"].double().mean().item()
    return mean, 0.25 + 0.75 * 0.999**steps


def test_moments_do_not_stall():
    found, exact = second_moment()
    assert found == pytest.approx(exact, rel=2e-3)
    stalled, _ = second_moment(nearest)
    assert stalled == 1.0  # what rounding to the nearest comes to


def test_all_slices_equal_one(monkeypatch):
    """How rows are cut and joined changes no bit; bits differ between places, steps and seeds."""
    results = []
    for size in (2**18, 300, 7):
        monkeypatch.setattr(module, "slice_elements", lambda device, size=size: size)
        (ours, optimizer), _ = train_both(LowPrecisionAdamW, 4)
        results.append(everything(ours, optimizer))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))
    (ours, optimizer), _ = train_both(LowPrecisionAdamW, 4, seed=1)
    other = everything(ours, optimizer)
    assert not all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_names_count_not_order():
    def run(names: str) -> dict[str, torch.Tensor]:
        listed = {name: nn.Parameter(torch.zeros(500)) for name in names}
        optimizer = LowPrecisionAdamW([{"params": list(listed.items())}])
        for parameter in listed.values():
            parameter.grad = torch.full_like(parameter, 0.7)
        optimizer.step()
        return {name: optimizer.state[p]["exp_avg"] for name, p in listed.items()}

    a, b = run("xy"), run("yx")
    assert all(torch.equal(a[name], b[name]) for name in "xy")
    assert not torch.equal(a["x"], a["y"])


def test_places_are_those_of_the_whole():
    whole = np.arange(5 * 6 * 7).reshape(5, 6, 7)
    rows = Rows(0, torch.Size((5, 6, 7)), Box((2, 1, 0), (3, 4, 7)), ())
    assert rows.places(torch.device("cpu")).tolist() == whole[2:5, 1:5].flatten().tolist()
    beyond = Rows(0, torch.Size((3, 2**31)), Box((2, 5), (1, 2)), ())
    assert [place % 2**32 for place in beyond.places(torch.device("cpu")).tolist()] == [5, 6]


def test_skipped_step_changes_nothing():
    listed = parameters()
    optimizer = LowPrecisionAdamW(groups(listed))
    for step in range(3):
        give_gradients(listed, step)
        step_unless(optimizer, torch.tensor(0.0))
    before = everything(listed, optimizer)
    give_gradients(listed, 3)
    for parameter in listed[2:]:
        parameter.grad.fill_(float("nan"))
    step_unless(optimizer, torch.tensor(1.0))
    after = everything(listed, optimizer)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert {state["step"].item() for state in optimizer.state.values()} == {2.0, 3.0}


def test_random_state_is_left_alone():
    before = torch.get_rng_state()
    train_both(LowPrecisionAdamW, 2)
    assert torch.equal(torch.get_rng_state(), before)


class Low(Run):
    """A run whose optimizer is built as training builds it."""

    def __init__(self, folder, parallel, dtype: str) -> None:
        super().__init__(folder, parallel)
        config = OptimizerConfig(lr=0.1, state_dtype=dtype)
        self.optimizer = build_optimizer(self.model, config, seed=3)
        self.checkpointer.optimizer = self.optimizer


@pytest.mark.parametrize("then", ["float32", "bfloat16"])
@pytest.mark.parametrize("first", ["float32", "bfloat16"])
def test_resumes(first, then, tmp_path, parallel):
    """Bit for bit in the same dtype; else moments are cast."""
    run = Low(tmp_path / "run", parallel, first)
    run.checkpointer.load()
    run.train(1, 2, 3)
    saved = [t.clone() for t in moments(run.optimizer)]
    shutil.copytree(tmp_path / "run", tmp_path / "again")
    run.train(4, 5)
    again = Low(tmp_path / "again", parallel, then)
    assert again.checkpointer.load() == 3
    dtype = getattr(torch, then)
    for tensor, was in zip(moments(again.optimizer), saved, strict=True):
        assert tensor.dtype == (dtype if tensor.ndim else torch.float32)
        assert torch.equal(tensor, was.to(tensor.dtype))
    again.train(4, 5)
    if first == then:
        assert again.values == run.values
    else:
        assert again.values == pytest.approx(run.values, rel=0.02, abs=1e-3)


def test_torchs_own_way_to_load_keeps_the_dtype(tmp_path, parallel):
    saved, other = (Low(tmp_path / name, parallel, "bfloat16").optimizer for name in "ab")
    other.load_state_dict(saved.state_dict())
    assert [t.dtype for t in moments(other)] == [t.dtype for t in moments(saved)]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a compiler")
def test_compiled_equals_eager(monkeypatch, caplog):
    """What a GPU runs compiled, compiled here for the CPU; one graph serves all sizes and rates."""
    (eager, _), _ = train_both(LowPrecisionAdamW, 3)
    monkeypatch.setattr(gpu_compile, "wanted", lambda first: True)
    (compiled, optimizer), _ = train_both(LowPrecisionAdamW, 3)
    assert "cannot be compiled" not in caplog.text
    for a, b, start in zip(eager, compiled, parameters(), strict=True):
        assert (a - b).norm() <= 0.01 * (a - start).norm()


def test_two_ranks_round_as_one(tmp_path):
    """Of a tensor in rows, in columns or copied. A result's last digit may turn a rounding."""
    train([str(tmp_path / "found")], 2, tmp_path / "log", program="tests.training.sharded_adamw")
    found, whole = torch.load(tmp_path / "found"), after_steps(lambda _, tensor: tensor)
    assert found.keys() == whole.keys()
    for name, tensor in whole.items():
        assert found[name].dtype == tensor.dtype
        equal = (found[name] == tensor).double().mean()
        torch.testing.assert_close(found[name], tensor, rtol=1e-2, atol=0)
        assert equal > 0.98, name
