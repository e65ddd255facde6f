"""Parallelism components, one file each, applied in one order by :func:`parallelize`."""

from __future__ import annotations

from torch import nn
from torch.distributed.device_mesh import DeviceMesh

from tokenkit.balance import sums_losses
from tokenkit.config import Config, rows_at_once
from tokenkit.models.causal_lm import CausalLM
from tokenkit.models.vocabulary.table import Vocabulary
from tokenkit.parallelisms.activation_checkpoint import apply_activation_checkpoint
from tokenkit.parallelisms.compile import apply_compile
from tokenkit.parallelisms.context_parallel import apply_context_parallel
from tokenkit.parallelisms.dtypes import DTYPES
from tokenkit.parallelisms.fsdp import apply_fsdp, shard_vocabulary
from tokenkit.parallelisms.memory import accumulates_unsharded, cast_frozen, replicates_frozen
from tokenkit.parallelisms.mesh import Parallel, init_parallel, teacher_layout
from tokenkit.parallelisms.shared_rows import SharedRows, share_rows
from tokenkit.parallelisms.tensor_parallel import apply_tensor_parallel
from tokenkit.parallelisms.vocabulary_rows import SharedPrediction, shard_rows

__all__ = [
    "DTYPES",
    "Parallel",
    "init_parallel",
    "parallelize",
    "parallelize_teacher",
    "parallelize_vocabulary",
    "share_prediction",
]


def _fsdp_mesh(config: Config, mesh: DeviceMesh) -> DeviceMesh | None:
    """The mesh FSDP shards over, or None where one fp32 process needs no FSDP."""
    ranks = mesh["replicate"].size() * mesh["shard"].size()
    if ranks == 1 and config.training.dtype == "float32":
        return None
    # bf16 on one rank goes through FSDP too: it is what casts fp32 masters for compute.
    return mesh["replicate", "shard"] if mesh["replicate"].size() > 1 else mesh["shard"]


def parallelize(model: CausalLM, config: Config, parallel: Parallel, *, train: bool) -> None:
    """Apply tensor and context parallelism, activation checkpointing, compile and FSDP, in order.

    Each step sees the previous one's layers: checkpointing wraps already split projections,
    compile sees the wrapped layer as one graph, and FSDP's hooks stay outside of all graphs.
    """
    mesh = parallel.mesh
    cast_frozen(model, DTYPES[config.training.dtype])
    if mesh["tp"].size() > 1:
        apply_tensor_parallel(model, mesh["tp"], config.parallelism.sequence_parallel)
    if parallel.context is not None:
        apply_context_parallel(model, parallel.context)
    if train and config.activation_checkpoint.mode != "none":
        apply_activation_checkpoint(model, config.activation_checkpoint)
    training = config.training
    rows = rows_at_once(config, parallel.dp_size) * parallel.dp_size
    # A mixture reduces each loss's gradient by itself, whatever else a step could share.
    passes = training.batch_size // rows if train and sums_losses(config) else 1
    _compile_and_shard(model, config, mesh, train, passes)


def parallelize_teacher(model: CausalLM, config: Config, parallel: Parallel) -> None:
    """Spread a frozen model as ``[teacher.parallelism]`` says, or as the student."""
    layout = teacher_layout(config, parallel)
    if layout is None:
        parallelize(model, config, parallel, train=False)
        return
    if layout.mesh["tp"].size() > 1:
        apply_tensor_parallel(
            model,
            layout.mesh["tp"],
            config.parallelism.sequence_parallel,
            split_vocabulary=layout.rows is None,
            key="teacher.parallelism.tensor_parallel_degree",
        )
    if layout.rows is not None:
        share_rows(model, SharedRows(layout.rows))
    _compile_and_shard(model, config, layout.mesh, False, 1)


def _compile_and_shard(
    model: CausalLM, config: Config, mesh: DeviceMesh, train: bool, passes: int
) -> None:
    """The last two; ``passes`` forward and backward make a step."""
    if config.compile.enable:
        apply_compile(model, config.compile)
    fsdp_mesh = _fsdp_mesh(config, mesh)
    if fsdp_mesh is None:
        return
    whole = _kept_whole(model, config, fsdp_mesh)
    if whole is not None:
        apply_fsdp(
            model,
            fsdp_mesh,
            DTYPES[config.training.dtype],
            config.parallelism,
            train=train,
            unsharded=passes > 1 and accumulates_unsharded(model, config, fsdp_mesh),
            whole=whole,
        )


def _kept_whole(module: nn.Module, config: Config, mesh: DeviceMesh) -> set[nn.Parameter] | None:
    """Parameters that every rank keeps; None if that is all of them, so that nothing is sharded."""
    if not replicates_frozen(module, config, mesh):
        return set()
    frozen = {p for p in module.parameters() if not p.requires_grad}
    return None if len(frozen) == sum(1 for _ in module.parameters()) else frozen


def parallelize_vocabulary(vocabulary: Vocabulary, config: Config, mesh: DeviceMesh) -> None:
    """Shard a vocabulary that stands beside a model (the source's, in self-distillation)."""
    if mesh["tp"].size() > 1:
        shard_rows(vocabulary, mesh["tp"])
    fsdp_mesh = _fsdp_mesh(config, mesh)
    if fsdp_mesh is None:
        return
    whole = _kept_whole(vocabulary, config, fsdp_mesh)
    if whole is not None:
        shard_vocabulary(vocabulary, fsdp_mesh, DTYPES[config.training.dtype], whole)


def share_prediction(vocabulary: Vocabulary, parallel: Parallel) -> None:
    """Let data-parallel ranks predict a vocabulary together, if it is predicted."""
    if parallel.shared_group is not None:
        vocabulary.sharing = SharedPrediction(parallel.shared_group)
