"""What ``plain_step`` trains, made from a config: transformers' models and tensors of their own."""

from __future__ import annotations

from functools import partial

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.launch import SPEC_A
from tests.tokenizers.test_expansion import brute_force
from tests.training.in_process import Training
from tests.training.plain_step import PlainModel, PlainTraining
from tests.training.small_runs import SPEC_BYTES, TOKENS
from tokenkit.config import Config
from tokenkit.tokenizers import load_tokenizer


def boundary_tokens(spec: str, mode: str, rows: int) -> torch.Tensor:
    """Tokens that begin with a blank, and the family's; ``<|end_of_text|>`` as ``eos_as_space``."""
    tok = AutoTokenizer.from_pretrained(spec.split(":")[0])
    plain = len(tok)  # the family's tokens were added behind these
    if spec == SPEC_BYTES:
        # Behind the bytes: five special tokens, three role names, and "\n\n".
        return torch.tensor(
            [chr(i) in " \t\n" or i in (*range(256, 261), 264) for i in range(rows)]
        )
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
        tied = tied and choice.output_embeddings == "preserve" and not choice.expand_input_ids
        model.weights[outputs] = (
            model.weights[inputs] if tied else start["vocabulary.output"].requires_grad_()
        )
    if choice.expand_input_ids:
        toks = load_tokenizer(SPEC_BYTES), load_tokenizer(SPEC_A)
        table = plain_model(choice.model, SPEC_A, "").weights[inputs].detach()
        model.subwords = partial(brute_force, *toks), table
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
