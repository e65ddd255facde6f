"""One rank of many, without the others: what it does, and collectives that send nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from tokenkit.errors import ConfigError
from tokenkit.ops import logit_blocks
from tokenkit.parallelisms import context_parallel
from tokenkit.parallelisms.shared_rows import SharedRows, share_rows
from tokenkit.planning.layout import LayoutError
from tokenkit.planning.models import PlannedModels

aten = torch.ops.aten
# What a causal mask of a row's later tokens is: a GPU's kernels know it, a CPU's get all pairs.
LOWER_RIGHT, PAIRS = object(), object()


@dataclass(frozen=True)
class Workload:
    """What one rank does in a step.

    Attributes:
        rows: of a micro-batch.
        micro_batches: of a step.
        student_length, teacher_length: tokens of a row.
        shards: data-parallel ranks that gradients are sharded over; 0: no FSDP, gradients stay.
        device: kind of device whose block sizes count.
        joined: micro-batches that a pass of the teacher reads.
        context, teacher_context: ranks that share the tokens of rows.
        rows_together: ranks whose rows the teacher reads together.
    """

    rows: int
    micro_batches: int
    student_length: int
    teacher_length: int
    shards: int
    device: str
    joined: int = 1
    context: int = 1
    teacher_context: int = 1
    rows_together: int = 1


@dataclass(frozen=True)
class Ranks:
    """In place of a process group: its collectives send nothing, but have results of their size."""

    number: int = 1


def _fused_attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Any = None,
    dropout_p: float = 0.0, is_causal: bool = False, scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:  # fmt: skip
    """What devices have in place of a matrix of all pairs; meta tensors would get the latter."""
    if attn_mask is LOWER_RIGHT:
        attn_mask = None
    elif attn_mask is PAIRS:
        attn_mask = query.new_empty(query.shape[2], key.shape[2])
    kernel = aten._scaled_dot_product_flash_attention_for_cpu
    return kernel(query, key, value, 0.0, is_causal, attn_mask=attn_mask, scale=scale)[0]


@contextmanager
def alone(device: str) -> Iterator[None]:
    """A first rank that sends nothing, with fused attention and a device's blocks."""

    def ranks(group: Any = None) -> int:
        return group.number if isinstance(group, Ranks) else 1

    def nothing(*_: Any, **__: Any) -> None:
        return None

    mask = PAIRS if device == "cpu" else LOWER_RIGHT
    blocks, rows, mixed = logit_blocks.BLOCK_BYTES, logit_blocks.MOST_ROWS, logit_blocks.MIXED
    changes: list[tuple[Any, str, Any]] = [
        (dist, "all_reduce", nothing),
        (dist, "all_gather_into_tensor", nothing),
        (dist, "reduce_scatter_tensor", nothing),
        (dist, "get_world_size", ranks),
        (dist, "get_rank", lambda *_, **__: 0),
        (F, "scaled_dot_product_attention", _fused_attention),
        (context_parallel, "causal_lower_right", lambda *_: mask),
        (logit_blocks, "BLOCK_BYTES", {**blocks, "meta": blocks[device], "cpu": blocks[device]}),
        (logit_blocks, "MOST_ROWS", {**rows, "meta": rows[device], "cpu": rows[device]}),
        (logit_blocks, "MIXED", tuple({*mixed, "meta"}) if device in mixed else mixed),
    ]
    before = [getattr(module, name) for module, name, _ in changes]
    for module, name, value in changes:
        setattr(module, name, value)
    try:
        yield
    finally:
        for (module, name, _), value in zip(changes, before, strict=True):
            setattr(module, name, value)


def spread(models: PlannedModels, work: Workload) -> Any:
    """Let models read what the ranks of a layout would; the student's context.

    Raises:
        LayoutError: if a model's rows cannot be divided so.
    """
    context: Any = Ranks(work.context)
    theirs = models.teacher_model
    try:
        if work.context > 1:
            context_parallel.apply_context_parallel(models.student, context)
        if theirs is not None and work.teacher_context > 1:
            context_parallel.apply_context_parallel(theirs, context)
    except ConfigError as error:
        raise LayoutError(str(error)) from error
    if theirs is not None and work.rows_together > 1:
        together: Any = Ranks(work.rows_together)
        share_rows(theirs, SharedRows(together))
    return context if work.context > 1 else None
