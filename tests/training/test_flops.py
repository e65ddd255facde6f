"""Counts of FLOPs against torch's own counter, on the operations that a step really runs."""

from __future__ import annotations

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry
from transformers import AutoConfig

from tests.launch import SPEC_A, SPEC_B
from tests.models.tiny import save_tiny
from tests.training.in_process import Training
from tests.training.small_runs import read_config
from tokenkit.models.flops import Flops, ModelSize, Tokens, attention_windows
from tokenkit.training.throughput import step_flops

SELF = f"""
    --student.model untied_a --student.tokenizer {SPEC_A} --student.target_tokenizer {SPEC_B}
    --teacher.model '' --teacher.tokenizer '' --training.max_grad_norm 0
"""
LORA = f"{SELF} --student.train lora --lora.rank 8"
BALANCED = "--loss.aggregation approx_gradmag_preserve_mag --loss.balance_interval 1"
FOUR = "--training.micro_batch_size 2"
CASES = {
    "full": SELF,
    "full, tied": f"{SELF} --student.model tied_a",
    "another teacher": "",
    "sft alone": "--loss.names sft --loss.weights 1",
    "LoRA": LORA,
    "LoRA, tied": f"{LORA} --student.model tied_a",
    "backbone frozen": f"{SELF} --student.train none",
    "LoRA, balanced": f"{LORA} {BALANCED}",
    "LoRA, balanced, accumulation": f"{LORA} {BALANCED} {FOUR}",
    "full, balanced, accumulation": f"{SELF} {BALANCED} {FOUR}",
    "embeddings frozen, balanced": f"{SELF} --student.train_embeddings false {BALANCED}",
    "mixture": f"{SELF} --loss.aggregation gradmag+pcgrad {FOUR}",
    "recomputed": f"{SELF} --activation_checkpoint.mode full",
    "selective": f"{SELF} --activation_checkpoint.mode selective_ops",
}


class Counter(TorchDispatchMode):
    """torch's formulas (``FlopCounterMode`` itself cannot look into ``autograd.grad``).

    Attributes:
        attention: FLOPs of batched matmuls.
        rest: of all others.
    """

    def __init__(self) -> None:
        super().__init__()
        self.attention = self.rest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if (formula := flop_registry.get(func._overloadpacket)) is not None:
            count = formula(
                *args, **{k: v for k, v in (kwargs or {}).items() if k != "out"}, out_val=out
            )
            if "bmm" in str(func):
                self.attention += count
            else:
                self.rest += count
        return out


def padded(seq) -> Tokens:
    return Tokens(seq.ids.numel(), len(seq.ids))


def expected(flops, batch) -> tuple[float, float]:
    """Of the same step: layers see padded tokens, the vocabulary real ones."""
    attention = rest = 0.0
    for micro in batch.micro_batches:
        for seq, work in (
            (micro.student, flops.student_hardware),
            (micro.teacher, flops.teacher_model),
        ):
            if seq is None:
                continue
            whole, real = work(padded(seq)), work(Tokens(len(seq.real_index), len(seq.ids)))
            attention += whole.attention
            rest += whole.layers + real.vocabulary
    return attention, rest


@pytest.mark.parametrize("overrides", CASES.values(), ids=CASES)
def test_a_step(overrides, folder, parallel):
    """Hardware FLOPs of a step of train.py's components."""
    config = read_config(folder, overrides)
    training = Training(config, parallel)
    step = training.step
    batch = training.batch()
    # Plain attention has all pairs, and makes no product twice.
    with sdpa_kernel(SDPBackend.MATH), Counter() as counter:
        training(batch, 3)
    flops = step_flops(config, training.student, step.teacher, step.losses, 1)
    attention, rest = counter.attention, counter.rest
    hardware_attention, hardware_rest = expected(flops, batch)
    assert rest == pytest.approx(hardware_rest, rel=0.03)
    # Twice the causal half; backward 2 instead of 2.5 forward passes.
    assert 1.5 * hardware_attention < attention < 2.01 * hardware_attention


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("train", ["all", "layers", "embeddings"])
def test_model_flops(tied, train, tmp_path):
    """Of plain transformers: forward and backward of a cross-entropy, as autograd runs them."""
    from transformers import AutoModelForCausalLM

    from tokenkit.models.causal_lm import load_causal_lm

    name = save_tiny(tmp_path / "m", "llama", tie_word_embeddings=tied, num_hidden_layers=3)
    ours = load_causal_lm(str(name), torch.device("cpu"), torch.float32)
    plain = AutoModelForCausalLM.from_pretrained(name).train()
    for model in (ours, plain):
        for key, parameter in model.named_parameters():
            matrix = any(word in key for word in ("embed_tokens", "lm_head", "vocabulary"))
            parameter.requires_grad_(train == "all" or (train == "embeddings") == matrix)
    ids = torch.randint(3, 96, (2, 40))
    with sdpa_kernel(SDPBackend.MATH), Counter() as counter:
        plain(input_ids=ids, labels=ids, use_cache=False).loss.backward()
    size, tokens = ModelSize.of(ours), Tokens(80, 2)
    found = size.forward(tokens).plus(size.backward(tokens))
    attention, rest = counter.attention, counter.rest
    # The first layer's inputs need no gradient if no embedding is trained.
    assert rest == pytest.approx(
        found.layers + found.vocabulary, rel=0.08 if train == "layers" else 0.01
    )
    assert attention == pytest.approx(2 * found.attention, rel=0.01)


def test_windows():
    plain = AutoConfig.for_model("llama", num_hidden_layers=3)
    gemma = AutoConfig.for_model("gemma2", num_hidden_layers=4, sliding_window=8)
    unused = AutoConfig.for_model("qwen2", num_hidden_layers=2)
    mistral = AutoConfig.for_model("mistral", num_hidden_layers=2, sliding_window=16)
    assert attention_windows(plain) == (None, None, None)
    assert attention_windows(gemma) == (8, None, 8, None)
    assert attention_windows(unused) == (None, None)
    assert attention_windows(mistral) == (16, 16)


def test_windowed_pairs():
    """The pairs that a mask leaves, counted one by one."""
    size = ModelSize(0, 0, (None, 8), 1, 0, False)
    place = torch.arange(200)
    behind = place[:, None] - place
    pairs = sum(((behind >= 0) & (behind < width)).sum().item() for width in (200, 8))
    assert size.attention(Tokens(200, 1)) == pytest.approx(4 * pairs, rel=0.02)


def test_flops_add_up():
    assert Flops(1, 2, 3).plus(Flops(4, 5, 6)) == (5, 7, 9)
    assert Flops(1, 2, 3).total == 6
