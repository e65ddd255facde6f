"""Every parallel layout trains like one fp32 process. A table of (name, ranks, overrides)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import sparse

from tests.launch import SPEC_A, SPEC_B, read_losses, train
from tests.shared import made_once
from tokenkit.tokenizers import load_tokenizer
from tokenkit.tokenizers.pairs.bias import FILES
from tokenkit.tokenizers.pairs.mined import compute_mined_mapping, save_mined_mapping

LORA = ["--student.train", "lora", "--lora.rank", "4", "--lora.alpha", "8"]
APPROX = [
    "--loss.aggregation", "approx_gradmag_preserve_mag", "--loss.balance_interval", "1"
]  # fmt: skip
SHARDED = ["--training.accumulate", "sharded"]  # the default, by memory, is not
TP2 = ["--parallelism.tensor_parallel_degree", "2"]
CP2 = ["--parallelism.context_parallel_degree", "2"]
TEACHER_TP2 = ["--teacher.parallelism.tensor_parallel_degree", "2"]
SP2 = [*TP2, "--parallelism.sequence_parallel", "true"]


STEPS = 10


def micro(size: int) -> list[str]:
    return ["--training.micro_batch_size", str(size)]


HYPERNET = [
    "--hypernet.architecture", "transformer", "--hypernet.num_heads", "4",
    "--hypernet.max_surface_length", "4", "--hypernet.num_layers", "1",
]  # fmt: skip
SAMPLED = [
    *HYPERNET, "--student.target_tokenizer", "", "--student.train_embeddings", "false",
    "--tokenizer_sampler.enable", "true", "--tokenizer_sampler.size_min", "1100",
    "--tokenizer_sampler.size_max", "1303", "--tokenizer_sampler.size_mean", "1200",
    "--tokenizer_sampler.size_std", "50", "--tokenizer_sampler.texts", "16",
]  # fmt: skip


BYTES = [
    "--student.target_tokenizer", f"{SPEC_A}:conversion=byte",
    "--student.expand_input_ids", "true", "--training.max_student_length", "256",
]  # fmt: skip

COMPILE = [
    "--compile.enable", "true", "--compile.backend", "aot_eager",
    # All rows are as wide as the limit: one graph, traced twice as fast as one for any width.
    "--compile.dynamic", "false", "--data.pad_multiple", "128",
]  # fmt: skip
RECIPE = [*micro(2), *COMPILE, "--activation_checkpoint.mode", "selective_ops"]


# One-process runs the others are held against.
BASES = {
    "full": [],
    "lora": [*LORA, *APPROX],
    "approx": APPROX,
    "none": ["--student.train", "none", "--student.output_embeddings", "untie"],
    "space": [
        "--loss.names",
        "alm_space",
        "--student.pad_vocab_multiple",
        "64",
        "--student.tokens_to_add",
        "<extra>",
    ],
    "states": [
        "--loss.names",
        "sft,alm_latents,alm_side_path,dskd,uld,lexical",
        "--latents.states",
        "all_hidden_states+qkv",
    ],
    "states approx": [
        "--loss.names",
        "sft,alm_latents,dskd",
        "--latents.project",
        "true",
        *APPROX,
    ],
    "kd": ["--student.target_tokenizer", "", "--loss.names", "sft,kd", *LORA],
    "chunks": ["--loss.names", "alm_unconstrained,alm_space,alm_unbiased"],
    "mined": ["--loss.names", "sft,mined"],
    "mixture": ["--loss.aggregation", "gradclip:0.5+pcgrad"],
    "mixture of states": [
        "--loss.names",
        "sft,alm_latents,dskd,lexical",
        "--loss.aggregation",
        "gradclip:0.5+pcgrad",
    ],
    "lexical": ["--loss.names", "lexical", "--student.embedding_init", "random"],
    "gradnorm": ["--loss.aggregation", "gradnorm"],
    "bf16 moments": ["--optimizer.state_dtype", "bfloat16", *APPROX],
    "zett": [
        *SAMPLED,
        "--student.train",
        "none",
        "--hypernet.byte_embeddings",
        "true",
        "--loss.names",
        "sft,alm_unconstrained,alm_space,alm_latents,lexical,uld",
    ],
    "zett approx": [
        *SAMPLED,
        *LORA,
        *APPROX,
        "--student.output_embeddings",
        "untie",
        "--hypernet.residual",
        "false",
        "--hypernet.identity_steps",
        "3",
        "--hypernet.identity_tokens",
        "101",
        "--hypernet.pooling",
        "mean",
    ],
    "zett full": [*SAMPLED, "--student.train", "full", "--loss.names", "sft,alm_latents,dskd"],
    "projector": [*HYPERNET, "--loss.names", "sft,alm_unconstrained,uld"],
    "projector untied": [
        *HYPERNET,
        *LORA,
        *APPROX,
        "--student.output_embeddings",
        "untie",
        "--hypernet.shared",
        "false",
        "--student.pad_vocab_multiple",
        "64",
    ],
    "bytes": [*BYTES, "--loss.names", "sft,alm_unconstrained,alm_latents,dskd,uld", *APPROX],
    "bytes lora": [*BYTES, *LORA, "--loss.names", "alm_space,alm_side_path,lexical"],
    "teacher": ["--teacher.tokenizer", SPEC_A, "--alm.mode", "append_space"],
    "teacher states": [
        "--teacher.tokenizer",
        SPEC_A,
        "--loss.names",
        "sft,alm_unconstrained,alm_latents,dskd,uld",
        "--latents.states",
        "all_hidden_states+qkv",
    ],
}

CASES = [
    ("full", "accumulate 4", 1, micro(2)),
    ("full", "FSDP 4", 4, micro(2)),
    ("full", "FSDP 2, accumulate 2", 2, micro(2)),
    ("full", "FSDP 2, accumulate 2 sharded", 2, [*micro(2), *SHARDED]),
    ("full", "FSDP 2, gathered ahead and kept", 2,
     [*micro(4), "--parallelism.prefetch_layers", "2",
      "--parallelism.reshard_after_forward", "false"]),
    ("full", "HSDP 2x1, accumulate 4", 2,
     [*micro(1), "--parallelism.data_parallel_replicate_degree", "2"]),
    ("full", "HSDP 2x2", 4, [*micro(2), "--parallelism.data_parallel_replicate_degree", "2"]),
    ("full", "DDP 2", 2, [*micro(4), "--parallelism.data_parallel_replicate_degree", "2"]),
    ("full", "TP 2", 2, TP2),
    ("full", "TP 2 x FSDP 2", 4, [*micro(4), *TP2]),
    ("full", "TP 2 + SP, checkpoint full", 2, [*SP2, "--activation_checkpoint.mode", "full"]),
    ("full", "TP 2 + SP, compile, checkpoint ops", 2,
     [*SP2, *COMPILE, "--activation_checkpoint.mode", "selective_ops"]),
    ("full", "CP 2, compile, checkpoint full", 2,
     [*CP2, *COMPILE, "--activation_checkpoint.mode", "full"]),
    ("full", "checkpoint full", 1, ["--activation_checkpoint.mode", "full"]),
    ("full", "checkpoint every 2nd", 1, ["--activation_checkpoint.mode", "every_n"]),
    ("full", "checkpoint ops, FSDP 2", 2,
     [*micro(4), "--activation_checkpoint.mode", "selective_ops"]),
    ("full", "compile for all lengths", 1, [*COMPILE, "--compile.dynamic", "true",
                                            "--data.pad_multiple", "8"]),
    ("approx", "accumulate 4", 1, micro(2)),
    ("approx", "FSDP 2, accumulate 2", 2, micro(2)),
    ("approx", "TP 2 x FSDP 2", 4, [*micro(4), *TP2]),
    ("approx", "TP 2 + SP x FSDP 2, accumulate 2", 4, [*micro(2), *SP2]),
    ("approx", "CP 2 x FSDP 2, accumulate 2", 4, [*micro(2), *CP2]),
    ("states", "accumulate 4", 1, micro(2)),
    ("states", "FSDP 2, checkpoint full", 2, [*micro(4), "--activation_checkpoint.mode", "full"]),
    ("states", "TP 2 + SP", 2, SP2),
    ("states", "CP 2 x TP 2 + SP", 4, [*SP2, *CP2]),
    ("states approx", "CP 2", 2, CP2),
    ("states approx", "FSDP 2, accumulate 2", 2, micro(2)),
    ("approx", "FSDP 2, accumulate 2 sharded", 2, [*micro(2), *SHARDED]),
    ("states approx", "TP 2 x FSDP 2", 4, [*micro(4), *TP2]),
    ("kd", "FSDP 2", 2, micro(4)),
    ("kd", "TP 2", 2, TP2),
    ("chunks", "accumulate 2", 1, micro(4)),
    ("chunks", "TP 2 x FSDP 2", 4, [*micro(4), *TP2]),
    ("mined", "TP 2 x FSDP 2", 4, [*micro(4), *TP2]),
    ("mixture", "accumulate 2", 1, micro(4)),
    ("mixture", "TP 2 x FSDP 2, accumulate 2", 4, [*micro(2), *TP2]),
    ("mixture", "CP 2, accumulate 2", 2, [*micro(4), *CP2]),
    ("mixture of states", "FSDP 2, accumulate 2", 2, micro(2)),
    ("mixture of states", "TP 2 x FSDP 2", 4, [*micro(4), *TP2]),
    ("lexical", "FSDP 2", 2, micro(4)),
    ("gradnorm", "FSDP 2, accumulate 2", 2, micro(2)),
    ("bf16 moments", "FSDP 2, accumulate 2", 2, micro(2)),
    ("bf16 moments", "TP 2 + SP", 2, SP2),
    ("lora", "FSDP 2", 2, micro(4)),
    ("lora", "FSDP 2, accumulate 2, frozen sharded", 2,
     [*micro(2), "--parallelism.frozen", "sharded"]),
    # What recipes for GPUs ask for, bfloat16 apart (below).
    ("lora", "FSDP 2, accumulate 2, compile, checkpoint ops", 2, RECIPE),
    ("lora", "TP 2 x FSDP 2, accumulate 2", 4, [*micro(2), *TP2]),
    ("lora", "TP 2 + SP x FSDP 2, accumulate 2", 4, [*micro(2), *SP2]),
    ("zett", "accumulate 4", 1, micro(2)),
    ("zett", "FSDP 2, accumulate 2", 2, micro(2)),
    ("zett", "FSDP 4", 4, micro(2)),
    ("zett", "TP 2", 2, TP2),
    ("zett approx", "FSDP 2, accumulate 2", 2, micro(2)),
    ("zett approx", "accumulate 4", 1, micro(2)),
    ("zett approx", "TP 2 x FSDP 2", 4, [*micro(4), *TP2]),
    ("zett approx", "CP 2", 2, CP2),
    ("zett full", "FSDP 2", 2, micro(4)),
    ("projector", "FSDP 2, accumulate 2", 2, micro(2)),
    ("projector", "HSDP 2x2", 4, [*micro(2), "--parallelism.data_parallel_replicate_degree", "2"]),
    ("projector untied", "FSDP 4", 4, micro(2)),
    ("bytes", "FSDP 2, accumulate 2", 2, micro(2)),
    ("bytes", "TP 2 x FSDP 2, checkpoint full", 4,
     [*micro(4), *TP2, "--activation_checkpoint.mode", "full"]),
    ("bytes lora", "FSDP 2", 2, micro(4)),
    ("bytes lora", "CP 2", 2, CP2),
    ("bytes lora", "TP 2", 2, TP2),
    ("none", "FSDP 2", 2, micro(4)),
    ("none", "FSDP 2, frozen sharded", 2, [*micro(4), "--parallelism.frozen", "sharded"]),
    ("space", "FSDP 2", 2, micro(4)),
    ("teacher", "FSDP 2", 2, micro(4)),
    ("teacher", "FSDP 2, the teacher TP 2", 2, [*micro(4), *TEACHER_TP2]),
    ("teacher", "CP 2, the teacher TP 2", 2, [*CP2, *TEACHER_TP2]),
    ("teacher states", "FSDP 4, the teacher TP 2 x FSDP 2 and two micro-batches at once", 4,
     [*micro(1), *TEACHER_TP2, "--teacher.micro_batch_size", "2"]),
    ("teacher", "TP 2 x FSDP 2", 4, [*micro(4), *TP2]),
]  # fmt: skip


@pytest.fixture(scope="module")
def base_losses(base_arguments, tiny_llama, tmp_path_factory):
    """Losses of each base, computed once."""

    def losses(base: str) -> list[float]:
        def make(folder: Path) -> None:
            run = arguments(base_arguments, tiny_llama, base, folder / "run")
            train(run, 1, folder / "log")

        return read_losses(made_once(tmp_path_factory, f"base {base}", make) / "run")

    return losses


def write_pair_bias(folder: Path) -> Path:
    """Random biases on half of all pairs."""
    folder.mkdir(exist_ok=True)
    generator = np.random.default_rng(0)
    shape = [len(load_tokenizer(spec)) for spec in (SPEC_A, SPEC_B)]
    for name in FILES:
        bias = generator.random(shape) * (generator.random(shape) < 0.5)
        sparse.save_npz(folder / name, sparse.csr_matrix(bias))
    return folder


def write_mapping(path: Path) -> Path:
    toks = load_tokenizer(SPEC_A), load_tokenizer(SPEC_B)
    save_mined_mapping(path, compute_mined_mapping(*toks), *toks)
    return path


def arguments(base_arguments, tiny_llama, base, folder) -> list[str]:
    extra = ["--teacher.model", str(tiny_llama)] if base.startswith("teacher") else []
    if base == "chunks":
        extra = ["--alm.pair_bias", str(write_pair_bias(folder.parent / "pair_bias"))]
    if base == "mined":
        extra = ["--mined.mapping", str(write_mapping(folder.parent / "mapping.npz"))]
    steps = ["--training.steps", str(STEPS)]
    return [*base_arguments, *BASES[base], *extra, *steps, "--job.output_dir", str(folder)]


@pytest.mark.parametrize(
    ("base", "world", "overrides"),
    [pytest.param(b, w, o, id=f"{b}: {name}") for b, name, w, o in CASES],
)
def test_equals_one_process(
    base, world, overrides, base_losses, base_arguments, tiny_llama, tmp_path
):
    argv = [*arguments(base_arguments, tiny_llama, base, tmp_path), *overrides]
    train(argv, world, tmp_path / "log")
    losses = read_losses(tmp_path)
    assert len(losses) == STEPS
    assert losses == pytest.approx(base_losses(base), rel=1e-5)


@pytest.mark.parametrize(
    "base", ["approx", "states approx", "zett", "projector untied", "bytes", "lora"]
)
def test_bfloat16_stays_close_to_fp32(base, base_losses, base_arguments, tiny_llama, tmp_path):
    argv = [*arguments(base_arguments, tiny_llama, base, tmp_path), *micro(2)]
    train([*argv, "--training.dtype", "bfloat16"], 2, tmp_path / "log")
    assert read_losses(tmp_path) == pytest.approx(base_losses(base), rel=0.05, abs=1e-3)


@pytest.mark.parametrize(
    ("frozen", "more"), [("sharded", []), ("replicated", RECIPE)], ids=["sharded", "recipe"]
)
def test_frozen_bfloat16_equals_one_process(frozen, more, base_arguments, tiny_llama, tmp_path):
    """Frozen weights are held in bfloat16; steps are rounded, so losses are nearly equal."""
    losses = []
    for world, extra in ((1, micro(8)), (2, [*micro(2), *more])):
        folder = tmp_path / str(world)
        argv = [*arguments(base_arguments, tiny_llama, "lora", folder), *extra]
        bf16 = ["--training.dtype", "bfloat16", "--parallelism.frozen", frozen]
        train([*argv, *bf16], world, tmp_path / f"{world}.log")
        losses.append(read_losses(folder))
    assert losses[1] == pytest.approx(losses[0], rel=5e-3)
