"""A run's LoRA adapter alone, in PEFT's format, with the matrices of its vocabulary beside it.

PEFT knows no other vocabulary, but loads embeddings that lie in an adapter's file, as it saves them
of models with added tokens (``save_embedding_layers``). So whoever loads it gives the base model as
many rows first; the card says how.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from tokenkit.config import Config
from tokenkit.errors import ConfigError
from tokenkit.export.card import card, origin_of
from tokenkit.export.folder import cast
from tokenkit.export.generation import translated_generation
from tokenkit.io import new_folder, refuse_existing
from tokenkit.models.causal_lm import CausalLM
from tokenkit.models.source import SourceModel
from tokenkit.training.restore import load_run, merged_tensors
from tokenkit.training.student import student_rows

BEFORE = "base_model.model."  # PEFT's name for the model that it wraps


def export_adapter(
    run: Path,
    output: Path,
    step: int = -1,
    dtype: torch.dtype | None = None,
    *,
    name: str = "",
    base_model: str = "",
) -> int:
    """Write ``adapter_config.json``, ``adapter_model.safetensors``, tokenizer and card.

    Arguments and result are those of :func:`tokenkit.export.run.export_run`; adapters are in fp32
    and matrices in the source's dtype, unless ``dtype`` is given.

    Raises:
        ConfigError: if no adapter can stand for what the run trained.
        CheckpointError: if ``run`` is no run or has no such checkpoint.
        TokenkitError: if ``output`` is taken.
    """
    refuse_existing(output, "output", "folder")
    config, source, student, tokenizers = load_run(run, step)
    check_adapter(config, source)
    rows = student_rows(source, tokenizers)
    _, inputs, outputs = merged_tensors(config, student, rows)
    state = cast(adapter_tensors(source, student), dtype or torch.float32)
    changed = config.student.train_embeddings or tokenizers.student is not tokenizers.source
    if changed:
        whole = dtype or getattr(source.hf_config, "dtype", None) or torch.float32
        state |= cast(vocabulary_tensors(source, inputs, outputs), whole)
    origin = origin_of(run, step, config, source, tokenizers.student, base_model)
    resized = rows if rows != len(source.matrices()[0]) else 0
    origin = replace(origin, adapter=True, resized=resized)
    base = origin.base or config.student.model
    with new_folder(output) as partial:
        save_file(state, partial / "adapter_model.safetensors", metadata={"format": "pt"})
        text = json.dumps(adapter_config(config, student, base), indent=2)
        (partial / "adapter_config.json").write_text(text + "\n", encoding="utf-8")
        toks = tokenizers.source, tokenizers.student
        translated_generation(source, *toks).save_pretrained(partial)
        tokenizers.student.save(partial)
        (partial / "README.md").write_text(card(name or output.name, origin), encoding="utf-8")
    return len(tokenizers.student)


def check_adapter(config: Config, source: SourceModel) -> None:
    """Refuse runs whose student is more than adapters and matrices on a base model."""
    student, advice = config.student, "leave out --adapter to export the whole model"
    if student.train != "lora":
        raise ConfigError(
            f'--adapter: the run has student.train = "{student.train}", no adapter; {advice}'
        )
    if student.init == "random":
        raise ConfigError(f'--adapter: student.init = "random" has no base model; {advice}')
    if student.expand_input_ids:
        raise ConfigError(f"--adapter: PEFT's models do not read subwords beside bytes; {advice}")
    if source.tied and student.output_embeddings == "untie":
        raise ConfigError(
            "--adapter: the base model ties its matrices, the run has student.output_embeddings = "
            f'"untie"; {advice}'
        )


def adapter_tensors(source: SourceModel, student: CausalLM) -> dict[str, Tensor]:
    """A and B of each layer under PEFT's names."""
    prefix = BEFORE + source.architecture.prefix
    return {
        prefix + name.replace(".lora_a.", ".lora_A.").replace(".lora_b.", ".lora_B."):
            parameter.detach().contiguous()
        for name, parameter in student.backbone.named_parameters()
        if ".lora_" in name
    }  # fmt: skip


def vocabulary_tensors(
    source: SourceModel, inputs: Tensor, outputs: Tensor | None
) -> dict[str, Tensor]:
    """Both matrices ``[V, D]`` (the input's alone if they are tied) under PEFT's names."""
    parts = source.architecture
    state = {f"{BEFORE}{parts.prefix}{parts.embedding}.weight": inputs.contiguous()}
    if outputs is not None:
        state[f"{BEFORE}lm_head.weight"] = outputs.contiguous()
    return state


def adapter_config(config: Config, student: CausalLM, base: str) -> dict[str, Any]:
    """What PEFT reads of an adapter."""
    names = {
        name.partition(".lora_")[0].rpartition(".")[2]
        for name, _ in student.backbone.named_parameters()
        if ".lora_" in name
    }
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": config.lora.rank,
        "lora_alpha": config.lora.alpha,
        "lora_dropout": 0.0,
        "target_modules": sorted(names),
        "fan_in_fan_out": student.architecture.transposed,
        "bias": "none",
        "modules_to_save": None,
        "inference_mode": True,
    }
