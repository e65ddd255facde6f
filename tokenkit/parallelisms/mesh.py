"""Process group and device meshes: replicate × shard (× context) × tensor-parallel ranks."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from tokenkit.config import Config
from tokenkit.errors import ConfigError
from tokenkit.life import agree_on_life
from tokenkit.ranks import local_rank


def init_distributed(
    timeout: timedelta = timedelta(minutes=30),
) -> tuple[torch.device, dist.Store]:
    """Start the process group (NCCL on GPUs, gloo on CPU).

    Works without torchrun too: a single process gets a world of one.

    Args:
        timeout: of each collective.

    Returns:
        This rank's device, and the store in which ranks met.
    """
    # gloo connects two ranks when they first have something to say to each other.
    os.environ.setdefault("TORCH_GLOO_LAZY_INIT", "1")
    bound: dict[str, torch.device] = {}
    if torch.cuda.is_available():
        if local_rank() >= torch.cuda.device_count():
            raise ConfigError(
                f"LOCAL_RANK = {local_rank()}, but this machine has {torch.cuda.device_count()} "
                "GPUs: start as many processes a machine (NGPU, torchrun --nproc-per-node)"
            )
        device = torch.device("cuda", local_rank())
        torch.cuda.set_device(device)
        bound = {"device_id": device}  # groups of some ranks are split off NCCL's first one
        backend = "cpu:gloo,cuda:nccl"
    else:
        device, backend = torch.device("cpu"), "gloo"
    if "RANK" in os.environ:
        try:
            store, rank, world = next(dist.rendezvous("env://", timeout=timeout))
        except dist.DistNetworkError as error:
            raise ConfigError(
                f"MASTER_ADDR:MASTER_PORT = {os.environ['MASTER_ADDR']}:"
                f"{os.environ['MASTER_PORT']} cannot be used ({str(error).splitlines()[0]}); "
                "choose a free port of rank 0's machine"
            ) from error
        # torchrun's store outlives its ranks: it still has the addresses of those it restarted.
        store = dist.PrefixStore(agree_on_life(rank, world, timeout).name, store)
    else:
        store, rank, world = dist.HashStore(), 0, 1
    dist.init_process_group(
        backend, store=store, rank=rank, world_size=world, timeout=timeout, **bound
    )
    return device, store


def _mesh(device: torch.device, **dimensions: int) -> DeviceMesh:
    return init_device_mesh(
        device.type, tuple(dimensions.values()), mesh_dim_names=tuple(dimensions)
    )


def _rest(*degrees: int) -> int:
    """Ranks over the product of degrees."""
    return dist.get_world_size() // math.prod(degrees)


@dataclass(frozen=True)
class Parallel:
    """This process's place among all ranks."""

    device: torch.device
    store: dist.Store  # in which ranks met
    mesh: DeviceMesh  # dimensions replicate, shard, tp; a context's ranks are part of shard
    dp_rank: int  # which rows this rank sees
    dp_size: int
    dp_group: dist.ProcessGroup  # ranks that see different rows
    context: dist.ProcessGroup | None = None  # ranks that see some tokens each of the same rows

    @property
    def shared_group(self) -> dist.ProcessGroup | None:
        """The data-parallel ranks, if there are others to share work with."""
        return self.dp_group if self.dp_size > 1 else None

    @property
    def is_main(self) -> bool:
        return dist.get_rank() == 0

    @property
    def is_first_of_rows(self) -> bool:
        """Whether no rank before this one sees the same rows."""
        in_context = 0 if self.context is None else dist.get_rank(self.context)
        return self.mesh["tp"].get_local_rank() == 0 and in_context == 0


def init_parallel(config: Config) -> Parallel:
    """Start the process group and lay out its ranks."""
    device, store = init_distributed(timedelta(minutes=config.job.startup_timeout_minutes))
    layout = config.parallelism
    replicate, tp = layout.data_parallel_replicate_degree, layout.tensor_parallel_degree
    mesh = _mesh(device, replicate=replicate, shard=_rest(replicate, tp), tp=tp)
    context = layout.context_parallel_degree
    if context > 1:
        rows = _mesh(device, dp=_rest(context, tp), context=context, tp=tp)
        dp_mesh, group = rows["dp"], rows["context"].get_group()
    else:
        # One flattened dimension over replicate and shard: every rank of it has its own rows.
        dp_mesh = mesh["shard"] if replicate == 1 else mesh["replicate", "shard"]._flatten("dp")
        group = None
    at, size = dp_mesh.get_local_rank(), dp_mesh.size()
    return Parallel(device, store, mesh, at, size, dp_mesh.get_group(), group)


@dataclass(frozen=True)
class TeacherLayout:
    """How the teacher lies on the same ranks.

    Attributes:
        mesh: dimensions replicate, shard, tp.
        rows: ranks that split its matrices and see different rows.
    """

    mesh: DeviceMesh
    rows: dist.ProcessGroup | None


def teacher_layout(config: Config, parallel: Parallel) -> TeacherLayout | None:
    """The layout of ``[teacher.parallelism]``; None where it is the student's."""
    own = config.teacher.parallelism
    if own == type(own)():
        return None
    device, same_rows = parallel.device, dist.get_world_size() // parallel.dp_size
    tp = own.tensor_parallel_degree or same_rows
    replicate = own.data_parallel_replicate_degree or 1
    mesh = _mesh(device, replicate=replicate, shard=_rest(replicate, tp), tp=tp)
    if tp == same_rows:
        return TeacherLayout(mesh, None)
    sizes = {"others": _rest(tp), "rows": tp // same_rows, "same": same_rows}
    group = mesh.get_group("tp") if same_rows == 1 else _mesh(device, **sizes).get_group("rows")
    return TeacherLayout(mesh, group)
