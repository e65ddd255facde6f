"""Process group and device mesh: replicate × shard × tensor-parallel ranks."""

from __future__ import annotations

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


def init_distributed(timeout: timedelta = timedelta(minutes=30)) -> torch.device:
    """Start the process group (NCCL on GPUs, gloo on CPU) and return this rank's device.

    Works without torchrun too: a single process gets a world of one.

    Args:
        timeout: of each collective.
    """
    if torch.cuda.is_available():
        if local_rank() >= torch.cuda.device_count():
            raise ConfigError(
                f"LOCAL_RANK = {local_rank()}, but this machine has {torch.cuda.device_count()} "
                "GPUs: start as many processes a machine (NGPU, torchrun --nproc-per-node)"
            )
        device = torch.device("cuda", local_rank())
        torch.cuda.set_device(device)
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
        dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=timeout)
    else:
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    return device


def build_mesh(config: Config, device: torch.device) -> DeviceMesh:
    """Mesh with dimensions ``replicate``, ``shard``, ``tp`` (in this order, always all three)."""
    parallel = config.parallelism
    replicate, tp = parallel.data_parallel_replicate_degree, parallel.tensor_parallel_degree
    shard = parallel.data_parallel_shard_degree
    if shard == -1:
        shard = dist.get_world_size() // (replicate * tp)
    names = ("replicate", "shard", "tp")
    return init_device_mesh(device.type, (replicate, shard, tp), mesh_dim_names=names)


@dataclass(frozen=True)
class Parallel:
    """This process's place among all ranks."""

    device: torch.device
    mesh: DeviceMesh  # dimensions replicate, shard, tp
    dp_rank: int  # which rows this rank sees
    dp_size: int
    dp_group: dist.ProcessGroup  # ranks that see different rows

    @property
    def shared_group(self) -> dist.ProcessGroup | None:
        """The data-parallel ranks, if there are others to share work with."""
        return self.dp_group if self.dp_size > 1 else None

    @property
    def is_main(self) -> bool:
        return dist.get_rank() == 0


def init_parallel(config: Config) -> Parallel:
    """Start the process group and lay out its ranks."""
    device = init_distributed(timedelta(minutes=config.job.startup_timeout_minutes))
    mesh = build_mesh(config, device)
    # One flattened dimension over replicate and shard: every rank of it has its own rows.
    dp_mesh = mesh["replicate", "shard"]._flatten("dp")
    return Parallel(device, mesh, dp_mesh.get_local_rank(), dp_mesh.size(), dp_mesh.get_group())
