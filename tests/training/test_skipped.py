"""A loss or gradient that is no number: nothing changes, bit for bit; too many end the run."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial

import pytest
import torch

from tests.launch import SPEC_A, SPEC_B, read_metrics, train
from tests.test_bad_inputs import run_badly
from tests.training.in_process import Training
from tests.training.small_runs import read_config
from tokenkit.errors import TrainingError
from tokenkit.ops.gradients import local_part
from tokenkit.training import identity as identity_module
from tokenkit.training import step as step_module
from tokenkit.training.checkpoint import list_steps
from tokenkit.training.identity import IdentityStep
from tokenkit.training.phases import Phases
from tokenkit.training.restore import load_run
from tokenkit.training.skipped import SkippedSteps
from tokenkit.training.update import update as real_update

TWO = "--training.micro_batch_size 4"
HYPERNET = f"""
    --student.model untied_a --student.tokenizer {SPEC_A} --student.train none
    --student.train_embeddings false --hypernet.architecture transformer --hypernet.num_heads 4
    --hypernet.num_layers 1 --hypernet.residual false --loss.names sft --loss.weights 1
"""
CASES = {
    "plain": TWO,
    "one kernel": f"{TWO} --optimizer.fused true",
    # Wrapped by FSDP, so that parameters and moments are sharded tensors.
    "one kernel, bf16": "--optimizer.fused true --training.dtype bfloat16",
    "bf16 states": f"{TWO} --optimizer.state_dtype bfloat16",
    "bf16 states, bf16": "--optimizer.state_dtype bfloat16 --training.dtype bfloat16",
    "no clipping": "--training.max_grad_norm 0",
    "LoRA": f"--student.model untied_a --student.tokenizer {SPEC_A} "
    f"--student.target_tokenizer {SPEC_B} --teacher.model '' --teacher.tokenizer '' "
    "--student.train lora --lora.rank 4",
    "gradnorm": f"{TWO} --loss.aggregation gradnorm",
    "balanced": f"{TWO} --loss.aggregation approx_gradmag_preserve_mag",
    "mixture": "--loss.aggregation gradclip:0.5+pcgrad",
    "hypernetwork": HYPERNET,
}


def state_of(training: Training) -> dict[str, torch.Tensor]:
    """Everything that a step may change and the next one reads."""
    state = {name: p.detach() for name, p in training.parameters.items()}
    for name, parameter in training.parameters.items():
        moments = training.optimizer.state[parameter]
        state |= {f"{name}.{kind}": tensor for kind, tensor in moments.items()}
    state |= training.step.balance.tensors()
    return {name: local_part(tensor).detach().clone() for name, tensor in state.items()}


def spoil_loss(training: Training, value: float):
    """Add ``value`` to the last loss, as an overflow would."""

    def spoil(_module, _inputs, output):
        return output[0] + value, output[1]

    return training.step.losses[-1].register_forward_hook(spoil)


def spoil_gradient(training: Training, value: float):
    """One element of one parameter's gradient; losses stay as they are."""
    parameter = list(training.parameters.values())[-1]
    patch = pytest.MonkeyPatch()

    def update(*arguments):
        local_part(parameter.grad).view(-1)[0] = value
        return real_update(*arguments)

    for module in (step_module, identity_module):
        patch.setattr(module, "update", update)
    patch.remove = patch.undo
    return patch


SPOILERS = {
    "loss is NaN": partial(spoil_loss, value=float("nan")),
    "loss is infinite": partial(spoil_loss, value=float("inf")),
    "gradient is NaN": partial(spoil_gradient, value=float("nan")),
    "gradient is infinite": partial(spoil_gradient, value=float("-inf")),
}


@pytest.mark.parametrize("name", CASES)
def test_nothing_changes(name, folder, parallel):
    training = Training(read_config(folder, CASES[name]), parallel)
    metrics = training(training.batch(), 3)
    assert metrics["same/skipped"] == 0
    for kind, spoil in SPOILERS.items():
        before = state_of(training)
        hook = spoil(training)
        metrics = training(training.batch(), 4)
        hook.remove()
        assert metrics["same/skipped"] == 1, kind
        after = state_of(training)
        assert before.keys() == after.keys() and len(before) > 3 * len(training.parameters)
        for key, value in before.items():
            assert torch.equal(value, after[key]), (kind, key)
        assert all(p.grad is None for p in training.parameters.values()), kind
    metrics = training(training.batch(), 4)
    after = state_of(training)
    assert metrics["same/skipped"] == 0 and metrics["loss"].isfinite()
    moved = [key for key, value in before.items() if not torch.equal(value, after[key])]
    assert len(moved) > 3 * len(training.parameters) - 3
    assert all(tensor.isfinite().all() for tensor in after.values())


def test_gradnorm_may_begin_with_one(folder, parallel):
    """Its first losses are those of the first step that counts."""
    training = Training(read_config(folder, CASES["gradnorm"]), parallel)
    hook = spoil_loss(training, float("nan"))
    training(training.batch(), 3)
    hook.remove()
    metrics = training(training.batch(), 4)
    shares = [metrics[f"loss/{name}"] for name in ("sft", "alm_unconstrained")]
    first = training.step.balance.tensors()["gradnorm.first_losses"]
    torch.testing.assert_close(first, torch.stack(shares))


def phases_of(training: Training, parallel) -> Phases:
    identity = IdentityStep(training.config, training.student, training.optimizer, parallel)
    return Phases(training.config, identity, training.step)


def test_identity_phase_too(folder, parallel):
    config = read_config(folder, f"{HYPERNET} --hypernet.identity_steps 4")
    training = Training(config, parallel)
    phases = phases_of(training, parallel)
    phases(training.batch(), 0)
    before = state_of(training)
    hook = spoil_gradient(training, float("nan"))
    metrics = phases(training.batch(), 1)
    hook.remove()
    assert metrics["same/skipped_steps"] == 1
    after = state_of(training)
    assert all(torch.equal(value, after[key]) for key, value in before.items())


def test_steps_in_a_row_are_counted(folder, parallel):
    """Two skipped, one not, and then three are too many."""
    training = Training(read_config(folder, f"{TWO} --training.max_skipped 3"), parallel)
    phases = phases_of(training, parallel)
    counts = []
    for step, spoilt in enumerate((True, True, False, True, True)):
        hook = spoil_loss(training, float("nan" if spoilt else "0"))
        counts.append(phases(training.batch(), step)["same/skipped_steps"].item())
        hook.remove()
    assert counts == [1, 2, 2, 3, 4]
    phases.finish()
    spoil_loss(training, float("nan"))
    batch = training.batch()
    with pytest.raises(TrainingError) as caught:
        phases(batch, 5)
    line = str(caught.value)
    assert re.match(
        r"step 6: the last 3 steps changed nothing \(training.max_skipped = 3\); "
        r"loss alm_unconstrained is not finite on rank 0", line
    )  # fmt: skip
    places = [place for micro in batch.micro_batches for place in micro.places]
    numbers = [re.fullmatch(r".*/rows\.jsonl:(\d+)", place)[1] for place in places]
    assert len(numbers) == 8 and f"(rows {', '.join(numbers)} of {folder}/rows.jsonl)" in line
    assert len(line) < 300


@pytest.mark.parametrize(("limit", "ends"), [(10, True), (0, False)])
def test_a_run_that_never_stepped_has_failed(limit, ends, folder, parallel):
    training = Training(read_config(folder, f"--training.max_skipped {limit}"), parallel)
    phases = phases_of(training, parallel)
    spoil_loss(training, float("nan"))
    phases(training.batch(), 0)
    if ends:
        with pytest.raises(TrainingError, match="step 1: the last 1 steps"):
            phases.finish()
    else:
        phases.finish()


def test_a_device_is_read_one_step_later(folder, parallel, monkeypatch):
    """As on a GPU: what a step came to is waited for when the next one has been handed over."""
    training = Training(read_config(folder, "--training.max_skipped 2"), parallel)
    phases = phases_of(training, parallel)
    read: list[int] = []

    class Arrival:
        def __init__(self, step):
            self.step = step

        def synchronize(self):
            read.append(self.step)

    def sent(step, batch, metrics):
        return replace(SkippedSteps._sent(phases.skipped, step, batch, metrics),
                       arrived=Arrival(step))  # fmt: skip

    monkeypatch.setattr(phases.skipped, "_sent", sent)
    phases(training.batch(), 0)
    spoil_loss(training, float("nan"))
    phases(training.batch(), 1)
    phases(training.batch(), 2)
    assert read == [0, 1]
    with pytest.raises(TrainingError, match="step 3: the last 2 steps"):
        phases.finish()
    assert read == [0, 1, 2]


# Runs of several ranks -------------------------------------------------------------------------

POISON = """
import torch.distributed as dist
from tokenkit.losses import LOSSES, Loss

@LOSSES.register("poison")
class Poison(Loss):
    needs, needs_teacher, step = frozenset({"label"}), False, 0

    def match(self, student, teacher):
        self.step += 1
        return student.counted

    def count(self, match):
        return match.sum().float()

    def forward(self, match, student, teacher, count):
        value = -student.token_logprob[match].sum() / count
        if dist.get_rank() == 1 and self.step == 3:
            value = value * float("nan")
        if dist.get_rank() == 1 and self.step == 4:  # its gradient is as ever
            value = value + float("inf")
        return value, {}
"""


@pytest.fixture
def poisoned(base_arguments, tmp_path):
    """A run with a loss that is not finite on rank 1 in steps 3 and 4 of every start."""
    (tmp_path / "poison.py").write_text(POISON)
    return [
        *base_arguments, "--job.custom_import", str(tmp_path / "poison.py"),
        "--job.output_dir", str(tmp_path / "run"), "--loss.names", "sft,poison",
        "--training.micro_batch_size", "4", "--checkpoint.enable", "true",
        "--checkpoint.interval", "1", "--checkpoint.keep_latest_k", "0",
        "--lr_scheduler.decay", "constant",
    ]  # fmt: skip


def parameters_at(run, step):
    config = run / "config.toml"  # this process is to register nothing
    config.write_text(re.sub("(custom_import = ).*", r"\g<1>[]", config.read_text()))
    return dict(load_run(run, step)[2].named_parameters())


@pytest.mark.slow
@pytest.mark.parametrize(
    "layout",
    [
        "",
        "--optimizer.fused true",
        "--parallelism.tensor_parallel_degree 2 --training.micro_batch_size 8",
    ],
)
def test_all_ranks_skip_together(layout, poisoned, tmp_path):
    train([*poisoned, *layout.split()], 2, tmp_path / "log")
    run, log = tmp_path / "run", (tmp_path / "log").read_text()
    assert list_steps(run / "checkpoints") == [1, 2, 3, 4, 5]
    second, fourth, fifth = (parameters_at(run, step) for step in (2, 4, 5))
    assert all(torch.equal(second[name], fourth[name]) for name in second)
    assert not all(torch.equal(fourth[name], fifth[name]) for name in fourth)
    counts = [metrics["skipped_steps"] for _, metrics in sorted(read_metrics(run).items())]
    assert counts == [0, 0, 1, 2, 2]
    assert re.search(r"rank 1\].*step 3 changes nothing: loss poison is not finite \(rows ", log)
    assert len(re.findall(r"step +\d+  loss .*skipped [12]\b", log)) == 3


@pytest.mark.slow
def test_too_many_end_all_ranks_by_one_line(poisoned, tmp_path):
    argv = [*poisoned, "--training.steps", "9", "--training.max_skipped", "2"]
    line = run_badly(argv, 2, tmp_path / "log")
    assert "step 4: the last 2 steps" in line and "loss poison is not finite on rank 1" in line
    assert re.search(r"rank 1 \(rows \d+, \d+, \d+, \d+ of /.*/texts.jsonl\)", line), line
    assert list_steps(tmp_path / "run" / "checkpoints") == [1, 2, 3]
    train([*argv, "--training.max_skipped", "4"], 2, tmp_path / "log")  # the last one is good


@pytest.mark.slow
def test_no_checkpoint_of_what_is_not_finite(base_arguments, tmp_path):
    """Weight decay that overflows: losses and gradients of the step itself are as ever."""
    argv = [*base_arguments, "--job.output_dir", str(tmp_path / "run"), "--training.steps", "3",
            "--checkpoint.enable", "true", "--checkpoint.interval", "1",
            "--training.micro_batch_size", "4"]  # fmt: skip
    train([*argv, "--training.steps", "1"], 2, tmp_path / "log")
    before = parameters_at(tmp_path / "run", 1)
    config = tmp_path / "run" / "config.toml"
    text = re.sub("(weight_decay = ).*", r"\g<1>3e38", config.read_text())
    config.write_text(re.sub("(\nlr = ).*", r"\g<1>1e5", text))
    huge = ["--optimizer.weight_decay", "3e38", "--optimizer.lr", "1e5"]
    line = run_badly([*argv, *huge], 2, tmp_path / "log2")
    assert re.search(r"step 2: 'model\..*' is not finite any more.*earlier ones stay", line), line
    assert list_steps(tmp_path / "run" / "checkpoints") == [1]
    assert not list((tmp_path / "run" / "checkpoints").glob("*.partial"))
    after = parameters_at(tmp_path / "run", 1)
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.slow
def test_a_run_without_one_step_ends_with_an_error(base_arguments, tmp_path):
    """Shorter than ``training.max_skipped``: weights of losses that overflow."""
    argv = [*base_arguments, "--job.output_dir", str(tmp_path / "run"), "--training.steps", "2",
            "--loss.weights", "1e38,1e38", "--checkpoint.enable", "true"]  # fmt: skip
    line = run_badly(argv, 1, tmp_path / "log")
    assert "step 2: the last 2 steps changed nothing" in line
    assert "the weighted loss, the gradient are not finite" in line, line
    assert not list_steps(tmp_path / "run" / "checkpoints")
