"""Tiny models, a few rows and the settings of a short run; tests override some of them."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

from tests.launch import SPEC_A, SPEC_B
from tests.models.tiny import save_tiny
from tokenkit.config import Config, load_config, validate

# The tokens of ``bpe_a`` as Llama 3 and of ``bpe_b`` in a Llama 3 prompt.
ROWS_A, ROWS_B = 1505, 705
# The same tokenizer in a Qwen2 prompt, which has no BOS.
SPEC_Q = SPEC_B.removesuffix(":target=Llama3")
ROWS_Q = 703
SPEC_BYTES = f"{SPEC_A}:conversion=byte"
ROWS_BYTES = 265
TOKENS = {SPEC_BYTES: ROWS_BYTES, SPEC_A: ROWS_A, SPEC_B: ROWS_B, SPEC_Q: ROWS_Q}
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

STEPS = 8
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


def write_folder(path: Path) -> Path:
    """Save the models and ``rows.jsonl``: plain texts, and conversations of two rounds."""
    for name, (family, options) in MODELS.items():
        save_tiny(path / name, family, **options)
    rows = []
    for n, text in enumerate(TEXTS * 2):
        chat = [{"role": role, "content": words.format(n=n)} for role, words in CHAT]
        rows += [{"text": f"{n}: {text}"}, {"messages": chat}]
    (path / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def arguments(folder: Path, overrides: str) -> list[str]:
    """Command line of a run on what :func:`write_folder` wrote."""
    argv = shlex.split(f"{BASE} {overrides} --data.train rows.jsonl")
    places = {name: str(folder / name) for name in (*MODELS, "rows.jsonl")}
    return [places.get(word, word) for word in argv]


def read_config(folder: Path, overrides: str) -> Config:
    config = load_config(arguments(folder, overrides))
    validate(config, 1)
    return config
