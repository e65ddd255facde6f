"""Two whole optimizer steps against transformers and plain torch: losses, gradients, parameters.

What lies between a batch and the updated parameters is written a second time in ``plain_step``;
nothing here compares tokenkit with itself.
"""

from __future__ import annotations

import pytest
import torch

from tests.launch import SPEC_A, SPEC_B
from tests.training.in_process import Training
from tests.training.plain_build import plain_training
from tests.training.plain_step import (
    PlainTraining,
    chunk_groups,
    chunk_places,
    norm_of,
    read_batch,
)
from tests.training.small_runs import SPEC_BYTES, SPEC_Q, read_config

FIRST = 3  # of 8 steps: in mid-course, where schedules and the rate's decay show
# Self-distillation to another tokenizer: the teacher is the student as it was.
SELF = f"""
    --student.model untied_a --student.tokenizer {SPEC_A} --student.target_tokenizer {SPEC_B}
    --teacher.model '' --teacher.tokenizer ''
"""
LORA = f"{SELF} --student.train lora --lora.rank 4 --lora.alpha 12"
EXPANDED = (
    f"--student.target_tokenizer {SPEC_BYTES} --student.expand_input_ids true "
    "--training.max_student_length 160"
)
FOUR = "--training.micro_batch_size 2"
EXACT = "--loss.balance_interval 1"
BALANCED = f"--loss.aggregation approx_gradmag_preserve_mag {EXACT}"

CASES = {
    "untied": "",
    "untied, accumulation": FOUR,
    "tied": "--student.model tied_b",
    "tied, accumulation": f"--student.model tied_b {FOUR}",
    "self": SELF,
    "self tied, balanced, accumulation": f"{SELF} --student.model tied_a {BALANCED} {FOUR}",
    "untie": f"{SELF} --student.model tied_a --student.output_embeddings untie",
    "LoRA": LORA,
    "LoRA, balanced": f"{LORA} {BALANCED}",
    "LoRA, balanced, accumulation": f"{LORA} {BALANCED} {FOUR}",
    "LoRA on two projections": f"{LORA} --lora.targets q_proj,down_proj --student.model tied_a",
    "embeddings only": f"{SELF} --student.train none",
    "soft-cap": "--student.model capped_b",
    "soft-cap, balanced, accumulation": f"--student.model capped_b {BALANCED} {FOUR}",
    "assistant": f"--chat.loss_on assistant {FOUR}",
    "completion": f"--chat.loss_on completion {FOUR}",
    "completion, balanced": f"--chat.loss_on completion {BALANCED}",
    "balanced": BALANCED,
    "balanced, accumulation": f"{BALANCED} {FOUR}",
    "balanced, not normalised": f"--loss.aggregation approx_gradmag {EXACT} {FOUR}",
    "balanced, three losses": f"{BALANCED} --loss.names sft,alm_unconstrained,alm_space "
    "--loss.weights 1,2,0.5 --loss.schedules constant,cosine,reverse_cosine",
    "balanced, linear schedules": f"{BALANCED} --loss.schedules linear,reverse_linear",
    "gradients of one norm": f"--loss.aggregation gradmag {FOUR}",
    "clipped gradients": "--loss.aggregation gradclip:0.5",
    "no conflicts": f"--loss.aggregation pcgrad {FOUR}",
    "clipped, no conflicts": f"--loss.aggregation gradclip:0.5+pcgrad {LORA}",
    "padded rows": f"--student.pad_vocab_multiple 64 {FOUR}",
    "padded rows, tied": "--student.pad_vocab_multiple 64 --student.model tied_b",
    "padded rows, balanced": f"--student.pad_vocab_multiple 64 {BALANCED}",
    "rows of no token": f"--student.model spare_rows_b --teacher.model spare_rows_a {FOUR}",
    "rows of no token, balanced": f"--student.model spare_rows_b {BALANCED}",
    "rows of no token, LoRA": f"{LORA} --student.model spare_rows_a",
    "chunks count by tokens": f"--alm.numerator token_count --alm.denominator token_count {FOUR}",
    "chunks count by log tokens": f"--alm.numerator log1p_token_count {FOUR}",
    "published temperature": "--alm.temperature 100",
    "neither merged nor appended": f"--alm.mode '' {FOUR}",
    "merged only": "--alm.mode merge_by_space_prob",
    "appended only": "--alm.mode append_space",
    "end of text as the boundary": "--alm.mode append_space+eos_as_space",
    "space chunks": "--loss.names alm_space --loss.weights 1",
    "no BOS": "--chat.text_mode direct_encode_no_force_bos",
    "the teacher alone has BOS": f"--student.model tied_q --student.tokenizer {SPEC_Q}",
    "the student alone has BOS": f"--teacher.model wide_q --teacher.tokenizer {SPEC_Q} "
    # Fewer of its tokens are boundaries; a row's first word is often two tokens.
    "--alm.merge_threshold 0.24 --loss.names sft,alm_space",
    "expanded bytes": f"{SELF} {EXPANDED} {FOUR}",
    "expanded bytes, tied source": f"{SELF} {EXPANDED} --student.model tied_a {BALANCED}",
    "expanded bytes, LoRA": f"{LORA} {EXPANDED} {FOUR}",
    "no clipping": "--training.max_grad_norm 0",
    "biases and rates": "--student.model biased_b "
    "--optimizer.lr_scale_patterns ^vocabulary,layers.1 --optimizer.lr_scales 2,0.5",
}


def stir(training: Training) -> None:
    """Adapters as in the middle of training: at the start A has no gradient and B is zero."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in training.parameters.items():
            if ".lora_b." in name:
                parameter.normal_(std=0.02)


def assert_same(name: str, ours: torch.Tensor, theirs: torch.Tensor, tolerance: float) -> None:
    """Equal but for ``tolerance`` of the norm; more rows of ours are padding, which is zero."""
    padding, ours = ours[len(theirs) :], ours[: len(theirs)]
    assert ours.shape == theirs.shape and not padding.any(), name
    error = (norm_of([ours - theirs]) / norm_of([theirs])).item()
    assert error < tolerance, f"{name}: relative error {error:.1e}"


def compare(training: Training, plain: PlainTraining, step: int) -> None:
    """Take step number ``step`` on both sides."""
    batch = training.batch()
    before = {name: p.detach().clone() for name, p in training.parameters.items()}
    metrics = training(batch, step)
    found = plain(batch.micro_batches, step)
    expected = {f"loss/{name}": value for name, value in found.losses.items()}
    expected |= {"loss": found.total.detach(), "same/grad_norm": found.norm}
    for name, value in expected.items():
        torch.testing.assert_close(
            metrics[name], value, rtol=1e-5, atol=0, msg=lambda text, name=name: f"{name}: {text}"
        )
    assert training.gradients.keys() == found.gradients.keys()
    for name, gradient in found.gradients.items():
        assert_same(name, training.gradients[name], gradient, 1e-5)
    for name, after in plain.parameters.items():
        start, ours = before[name], training.parameters[name].detach()
        # A parameter near 1 that changes by 1e-3 keeps only four or five digits of its change.
        assert_same(name, ours - start, after.detach() - start[: len(after)], 5e-5)


@pytest.mark.parametrize("case", CASES)
def test_equals_plain_torch(case, folder, parallel):
    config = read_config(folder, CASES[case])
    training = Training(config, parallel)
    stir(training)
    plain = plain_training(config, training)
    for step in (FIRST, FIRST + 1):
        compare(training, plain, step)


def test_data_reach_the_rules(folder, parallel):
    """Chunks merged and not merged, micro-batches that count differently, turns without loss."""
    training = Training(read_config(folder, f"{FOUR} --data.deal order"), parallel)
    plain, batches = plain_training(training.config, training), training.batch().micro_batches
    sizes, tokens = set(), set()
    for student, teacher in map(read_batch, batches):
        boundary = plain.teacher.scores(teacher)[1]
        tokens.add(int(student.loss_mask.sum()))
        for row in range(len(teacher.ids)):
            places = [chunk_places(side, "unconstrained", row) for side in (teacher, student)]
            groups = chunk_groups(*places, boundary[row], training.config.alm)
            sizes |= {len(group) for group in groups}
    assert {1, 2, 3} <= sizes and len(tokens) == len(batches)
    masked = {}
    for loss_on in ("all", "assistant", "completion"):
        training = Training(read_config(folder, f"--chat.loss_on {loss_on}"), parallel)
        (batch,) = training.batch().micro_batches
        masked[loss_on] = int(read_batch(batch)[0].loss_mask.sum())
    assert masked["completion"] < masked["assistant"] < masked["all"]
