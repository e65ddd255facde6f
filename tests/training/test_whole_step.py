"""Two whole optimizer steps against transformers and plain torch: losses, gradients, parameters.

What lies between a batch and the updated parameters is written a second time in ``plain_step``;
nothing here compares tokenkit with itself.
"""

from __future__ import annotations

import json
import shlex

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.launch import SPEC_A, SPEC_B
from tests.models.tiny import save_tiny
from tests.training.in_process import Training
from tests.training.plain_step import (
    PlainModel,
    PlainTraining,
    chunk_groups,
    chunk_places,
    norm_of,
    read_batch,
)
from tokenkit.config import Config, load_config, validate
from tokenkit.losses import LOSSES

# The tokens of ``bpe_a`` as Llama 3 and of ``bpe_b`` in a Llama 3 prompt.
ROWS_A, ROWS_B = 1505, 705
# The same tokenizer in a Qwen2 prompt, which has no BOS.
SPEC_Q = SPEC_B.removesuffix(":target=Llama3")
ROWS_Q = 703
TOKENS = {SPEC_A: ROWS_A, SPEC_B: ROWS_B, SPEC_Q: ROWS_Q}
MODELS = {
    "tied_b": ("llama", {"vocab_size": ROWS_B, "tie_word_embeddings": True}),
    "untied_b": ("llama", {"vocab_size": ROWS_B, "tie_word_embeddings": False}),
    "tied_a": ("llama", {"vocab_size": ROWS_A, "tie_word_embeddings": True}),
    "untied_a": ("llama", {"vocab_size": ROWS_A, "tie_word_embeddings": False}),
    "wide_a": ("llama", {"vocab_size": ROWS_A, "hidden_size": 48, "head_dim": 12, "seed": 1}),
    "tied_q": ("llama", {"vocab_size": ROWS_Q, "tie_word_embeddings": True}),
    "wide_q": ("llama", {"vocab_size": ROWS_Q, "hidden_size": 48, "head_dim": 12, "seed": 1}),
    "biased_b": ("qwen2", {"vocab_size": ROWS_B}),
    "spare_rows_a": ("llama", {"vocab_size": ROWS_A + 15, "seed": 1}),
    "spare_rows_b": ("llama", {"vocab_size": ROWS_B + 15}),
    # A cap that bends logits of this size.
    "capped_b": ("gemma2", {"vocab_size": ROWS_B, "final_logit_softcapping": 1.5}),
}

TEXTS = [
    "A cat  sat on the mat,\n\tand the other one did not.",
    "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich 🦊.",
    "def f(x):\n    return x ** 2  # a square\n",
    "short",
    "The quick brown fox jumps over the lazy dog; the dog is not amused by the fox at all.",
    "x = 3.14159\ty = 2.71828\tz = 1.41421",
    "日本語のテキスト and some English, too.",
    "Words, words, words; nothing but words in a row of words that goes on for a while.",
]
CHAT = [
    ("user", "What is {n} plus one?"),
    ("assistant", "It is the number after {n}.\nThat is easy to say."),
    ("user", "And twice {n}?"),
    ("assistant", "Take {n}  and add it to itself, then look at the sum."),
]

FIRST, STEPS = 3, 8  # two steps in mid-course, where schedules and the rate's decay show
BASE = f"""
    --student.model untied_b --student.tokenizer {SPEC_B}
    --teacher.model wide_a --teacher.tokenizer {SPEC_A}
    --loss.names sft,alm_unconstrained --loss.weights 1,2.5
    --alm.temperature 5 --alm.merge_threshold 0.33
    --training.steps {STEPS} --training.batch_size 8 --training.micro_batch_size 8
    --training.max_student_length 72 --training.max_teacher_length 64
    --training.max_grad_norm 0.1
    --optimizer.lr 1e-2 --optimizer.eps 1e-4 --optimizer.weight_decay 0.1
    --lr_scheduler.warmup_steps 2
"""
# Self-distillation to another tokenizer: the teacher is the student as it was.
SELF = f"""
    --student.model untied_a --student.tokenizer {SPEC_A} --student.target_tokenizer {SPEC_B}
    --teacher.model '' --teacher.tokenizer ''
"""
LORA = f"{SELF} --student.train lora --lora.rank 4 --lora.alpha 12"
FOUR = "--training.micro_batch_size 2"
BALANCED = "--loss.aggregation approx_gradmag_preserve_mag"

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
    "balanced, not normalised": f"--loss.aggregation approx_gradmag {FOUR}",
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
    "no clipping": "--training.max_grad_norm 0",
    "biases and rates": "--student.model biased_b "
    "--optimizer.lr_scale_patterns ^vocabulary,layers.1 --optimizer.lr_scales 2,0.5",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The models and ``rows.jsonl``: plain texts, and conversations of two rounds."""
    path = tmp_path_factory.mktemp("whole_step")
    for name, (family, options) in MODELS.items():
        save_tiny(path / name, family, **options)
    rows = []
    for n, text in enumerate(TEXTS * 2):
        chat = [{"role": role, "content": words.format(n=n)} for role, words in CHAT]
        rows += [{"text": f"{n}: {text}"}, {"messages": chat}]
    (path / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def read_config(folder, case: str) -> Config:
    argv = shlex.split(f"{BASE} {case} --data.train rows.jsonl")
    places = {"rows.jsonl": folder / "rows.jsonl", **{name: folder / name for name in MODELS}}
    config = load_config([str(places.get(word, word)) for word in argv])
    validate(config, 1, known_losses=LOSSES.names())
    return config


def boundary_tokens(spec: str, mode: str, rows: int) -> torch.Tensor:
    """Tokens that begin with a blank, and the family's; ``<|end_of_text|>`` as ``eos_as_space``."""
    tok = AutoTokenizer.from_pretrained(spec.split(":")[0])
    plain = len(tok)  # the family's tokens were added behind these
    if "eos_as_space" in mode:
        return torch.arange(rows) == rows - 2
    starts = [tok.convert_ids_to_tokens(i)[0] in "ĠĉĊ" for i in range(plain)]
    return torch.tensor(starts + [True] * (rows - plain))


def plain_model(model: str, spec: str, mode: str) -> PlainModel:
    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    tokens = TOKENS[spec]
    weights = dict(network.named_parameters(remove_duplicate=False))
    return PlainModel(network, weights, tokens, boundary_tokens(spec, mode, tokens), {})


def plain_student(config: Config, start: dict[str, torch.Tensor]) -> tuple[PlainModel, dict]:
    """The student and what is trained of it, by tokenkit's names.

    Args:
        start: tokenkit's parameters; a new vocabulary and adapters are drawn by it.
    """
    choice = config.student
    model = plain_model(choice.model, choice.target_tokenizer or choice.tokenizer, config.alm.mode)
    inputs, outputs = "model.embed_tokens.weight", "lm_head.weight"
    tied = model.weights[inputs] is model.weights[outputs]
    if choice.target_tokenizer:
        model.weights[inputs] = start["vocabulary.input"].requires_grad_()
        tied = tied and choice.output_embeddings == "preserve"
        model.weights[outputs] = (
            model.weights[inputs] if tied else start["vocabulary.output"].requires_grad_()
        )
    leaves = {"vocabulary.input": model.weights[inputs]}
    if not tied:
        leaves["vocabulary.output"] = model.weights[outputs]
    for name, weight in model.weights.items():
        if name in (inputs, outputs):
            continue
        ours = name.replace("model.", "backbone.", 1)
        stem, projection = ours.removesuffix(".weight"), ours.split(".")[-2]
        if choice.train == "full":
            leaves[ours] = weight
        elif choice.train == "lora" and projection in config.lora.targets:
            names = f"{stem}.lora_a.weight", f"{stem}.lora_b.weight"
            leaves |= {n: start[n].requires_grad_() for n in names}
            model.adapters[name] = tuple(leaves[n] for n in names)
    model.scale = config.lora.alpha / config.lora.rank
    return model, leaves


def plain_training(config: Config, training: Training) -> PlainTraining:
    start = {name: p.detach().clone() for name, p in training.student.named_parameters()}
    student, leaves = plain_student(config, start)
    model, spec = config.student.model, config.student.tokenizer
    if config.teacher.model:
        model, spec = config.teacher.model, config.teacher.tokenizer
    return PlainTraining(config, student, plain_model(model, spec, config.alm.mode), leaves)


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
    batches = training.micro_batches()
    before = {name: p.detach().clone() for name, p in training.parameters.items()}
    metrics = training(batches, step)
    found = plain(batches, step)
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
    training = Training(read_config(folder, FOUR), parallel)
    plain, batches = plain_training(training.config, training), training.micro_batches()
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
        (batch,) = training.micro_batches()
        masked[loss_on] = int(read_batch(batch)[0].loss_mask.sum())
    assert masked["completion"] < masked["assistant"] < masked["all"]
