"""What a run is, said once before its first step, of what was really built."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from tokenkit.cards import GIB, card_called
from tokenkit.config import Config
from tokenkit.data.loader import TrainLoader
from tokenkit.models.causal_lm import CausalLM
from tokenkit.models.flops import StepFlops
from tokenkit.parallelisms import Parallel
from tokenkit.planning.report import in_units
from tokenkit.planning.speed import COMPILED, EFFICIENCY, full_rows
from tokenkit.ranks import world_size
from tokenkit.tokenizers import ByteifiedTokenizer
from tokenkit.tokenizers.chat.family_template import family_template
from tokenkit.training.lines import in_words
from tokenkit.training.metrics import cut_shares
from tokenkit.training.teacher import LiveTeacher, SelfTeacher, Teacher
from tokenkit.training.tokenizers import Tokenizers

WIDTH, LABEL = 100, 12


def describe_start(
    config: Config,
    parallel: Parallel,
    tokenizers: Tokenizers,
    student: CausalLM,
    teacher: Teacher | None,
    loader: TrainLoader,
    first_stats: dict[str, int],
    flops: StepFlops,
    start_step: int,
) -> str:
    """Aligned lines, at most 100 characters wide. No rank waits for another one here.

    Args:
        first_stats: counts of this rank's first batch; may be empty.
    """
    job, training = config.job, config.training
    went = f", going on from step {start_step:,}" if start_step else ""
    rows = {
        "run": f"{job.name}: {training.steps:,} steps{went}, seed {job.seed}",
        "device": _device(config, parallel),
        "layout": _layout(config, parallel),
        "student": _student(config, student),
        "teacher": _teacher(config, teacher),
        "tokenizer": _tokenizer(tokenizers.student),
        **_others(tokenizers),
        "data": _data(config, loader, first_stats),
        "losses": _losses(config),
        "a step": _step(config, flops, teacher is not None),
        "memory": _memory(parallel.device, student, teacher),
        "time": _time(config, parallel, flops, start_step),
        "folder": str(Path(job.output_dir).resolve()),
    }
    return "\n".join(line for label, text in rows.items() for line in _wrapped(label, text))


def _wrapped(label: str, text: str) -> list[str]:
    indent = " " * LABEL
    return textwrap.wrap(
        text, WIDTH, initial_indent=label.ljust(LABEL), subsequent_indent=indent,
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip


def _device(config: Config, parallel: Parallel) -> str:
    if parallel.device.type == "cuda":
        name = torch.cuda.get_device_name(parallel.device)
    else:
        threads = torch.get_num_threads()
        name = f"CPU, {threads} thread{'s' * (threads > 1)} a rank"
    extras = [f"{config.training.dtype} (weights and optimizer in float32)"
              if config.training.dtype != "float32" else "float32"]  # fmt: skip
    if config.optimizer.state_dtype != "float32":
        extras = [f"{config.training.dtype} (weights in float32, AdamW's moments in bfloat16)"]
    if config.compile.enable:
        extras.append("compiled")
    if config.activation_checkpoint.mode != "none":
        extras.append(f"activations recomputed: {config.activation_checkpoint.mode}")
    return f"{world_size()} x {name}; {', '.join(extras)}"


def _layout(config: Config, parallel: Parallel) -> str:
    training, mesh = config.training, parallel.mesh
    context = 1 if parallel.context is None else parallel.context.size()
    shard = mesh["shard"].size() // context
    ranks = f"{mesh['replicate'].size()} x {shard} x {mesh['tp'].size()} x {context}"
    micro_batches = training.batch_size // (training.micro_batch_size * parallel.dp_size)
    return (
        f"replicate x shard x tensor x context = {ranks}; {training.batch_size} rows a step = "
        f"{training.micro_batch_size} a micro-batch x {micro_batches} accumulated x "
        f"{parallel.dp_size} data-parallel"
    )


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """Of all ranks together: all, and those that are trained."""
    parameters = list(model.parameters())
    return (
        sum(p.numel() for p in parameters),
        sum(p.numel() for p in parameters if p.requires_grad),
    )


def _student(config: Config, student: CausalLM) -> str:
    total, trained = count_parameters(student)
    settings = config.student
    how = [settings.train if settings.init == "pretrained" else f"{settings.train}, fresh weights"]
    how += ["the vocabulary, too"] * (settings.train != "full" and settings.train_embeddings)
    return (
        f"{settings.model}: {in_units(total)} parameters, {in_units(trained)} trained "
        f"({', '.join(how)})"
    )


def _teacher(config: Config, teacher: Teacher | None) -> str:
    if teacher is None:
        return "none: no loss asks for one"
    if config.teacher.cache:
        return f"scores of the cache {config.teacher.cache}"
    if isinstance(teacher, SelfTeacher):
        return "the student as it began (same weights, its source vocabulary beside it)"
    assert isinstance(teacher, LiveTeacher)
    total = f"{in_units(count_parameters(teacher.model)[0])} parameters, frozen"
    return f"{config.teacher.model or 'a copy of the student as it began'}: {total}"


def _tokenizer(tok: ByteifiedTokenizer) -> str:
    """Its size, family, and what chats are written by."""
    if tok.chat is None:
        chats = "no chat template"
    elif tok.chat.texts.get("default") == family_template(tok.family):
        chats = f"chats as {tok.family.name}"
    else:
        chats = "chats by its own template"
    return f"{tok.spec}: {len(tok):,} tokens, family {tok.family.name}, {chats}"


def _others(tokenizers: Tokenizers) -> dict[str, str]:
    """The source's and the teacher's, where they are not the student's."""
    student, source, teacher = tokenizers.student, tokenizers.source, tokenizers.teacher
    said = {}
    if source is not student:
        too = ", the teacher's, too" if teacher is source else ""
        said["  before"] = _tokenizer(source) + too
    if teacher not in (None, student, source):
        said["  teacher's"] = _tokenizer(teacher)
    return said


def _data(config: Config, loader: TrainLoader, first_stats: dict[str, int]) -> str:
    length = loader.dataset.order.pass_length
    names = config.data.train
    sources = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    read = config.training.steps * config.training.batch_size
    if length:
        rows = f"{length:,} rows, read {read / length:.2g} times"
    else:
        rows = f"streamed, {read:,} rows are read"
    cut = cut_shares(first_stats).get("data/cut_share")
    seen = "" if cut is None else f"; {cut:.0%} of the first {first_stats['rows']} are cut"
    return f"{sources}: {rows}{seen}"


def _losses(config: Config) -> str:
    loss = config.loss
    weights = loss.weights or [1.0] * len(loss.names)
    named = [n if w == 1.0 else f"{w:g} {n}" for n, w in zip(loss.names, weights, strict=True)]
    return " + ".join(named) + (f", balanced by {loss.aggregation}" if loss.aggregation else "")


def _step(config: Config, flops: StepFlops, taught: bool) -> str:
    student, teacher = full_rows(config)
    also = f" and {teacher.tokens:,} of the teacher's" if taught else ""
    work = in_units(flops.model(student, teacher))
    return f"at most {student.tokens:,} tokens of the student's{also}, {work}FLOP of the models"


def _bytes_here(tensors: Sequence[Tensor]) -> int:
    held = (t.to_local() if isinstance(t, DTensor) else t for t in tensors)
    return sum(t.numel() * t.element_size() for t in held)


def _memory(device: torch.device, student: CausalLM, teacher: Teacher | None) -> str:
    weights = _bytes_here(list(student.parameters()))
    if isinstance(teacher, LiveTeacher):
        weights += _bytes_here(list(teacher.model.parameters()))
    elif isinstance(teacher, SelfTeacher):
        weights += _bytes_here(list(teacher.vocabulary.parameters()))
    trained = [p for p in student.parameters() if p.requires_grad]
    states = 3 * _bytes_here(trained)  # a gradient and two moments, like the weight in float32
    room = ""
    if device.type == "cuda":
        room = f" of {torch.cuda.get_device_properties(device).total_memory / GIB:.0f} GiB"
    return (
        f"{(weights + states) / GIB:.2f} GiB{room} on this rank for weights, gradients and "
        "optimizer; activations come on top (tokenkit plan estimates them)"
    )


def _time(config: Config, parallel: Parallel, flops: StepFlops, start_step: int) -> str:
    """An estimate where the card's peak is known; else the lines of steps will tell."""
    card = None
    if parallel.device.type == "cuda":
        card = card_called(torch.cuda.get_device_name(parallel.device))
    if card is None:
        return "each line says what is left"
    share = COMPILED if config.compile.enable else EFFICIENCY
    speed = world_size() * card.peak(config.training.dtype) * share
    seconds = flops.hardware(*full_rows(config)) / speed * (config.training.steps - start_step)
    return f"about {in_words(seconds)} if rows are full (an estimate; each line says what is left)"
