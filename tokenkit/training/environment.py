"""The process itself: seeds, threads, what ranks wish, the profiler."""

from __future__ import annotations

import gc
import os
import random
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from tokenkit.config import Config
from tokenkit.errors import TokenkitError
from tokenkit.log import logger
from tokenkit.ranks import rank


def set_up_process(config: Config) -> None:
    """Seed every generator and apply thread and determinism settings."""
    random.seed(config.job.seed)
    np.random.seed(config.job.seed)
    torch.manual_seed(config.job.seed)
    if config.training.threads:
        torch.set_num_threads(config.training.threads)
    if config.training.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    torch.set_float32_matmul_precision("highest" if config.training.dtype == "float32" else "high")
    set_up_gpu(config)


def set_up_gpu(config: Config) -> None:
    """What the CUDA libraries read of the environment; what the user has set stays.

    Memory grows in place, so that batches of other shapes find room; and NCCL keeps its last
    operations, which ranks that wait for ever write into the output directory.
    """
    if not torch.cuda.is_available():
        return
    trace = str(Path(config.job.output_dir).expanduser().absolute() / "flight_recorder_rank_")
    for name, older, value in (
        ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True"),
        ("TORCH_FR_BUFFER_SIZE", "TORCH_NCCL_TRACE_BUFFER_SIZE", "2000"),
        ("TORCH_FR_DUMP_TEMP_FILE", "TORCH_NCCL_DEBUG_INFO_TEMP_FILE", trace),
        ("TORCH_NCCL_DUMP_ON_TIMEOUT", "", "1"),
    ):
        if older not in os.environ:
            os.environ.setdefault(name, value)


class SteadyGarbage:
    """Python's cyclic garbage collected at fixed steps, where else it stops any rank at any time.

    Args:
        interval: steps from one collection to the next; 0 leaves it to Python.
    """

    def __init__(self, interval: int) -> None:
        self.interval = interval
        if interval:
            gc.disable()
            gc.collect()
            gc.freeze()  # what is built by now stays; nobody need look at it again

    def step(self, number: int) -> None:
        """Step ``number`` has ended."""
        if self.interval and (number + 1) % self.interval == 0:
            gc.collect()


def any_rank(*wishes: bool) -> list[bool]:
    """Which wishes (to stop, to save) any rank has. On the CPU, so that no GPU is waited for."""
    flags = torch.tensor(wishes, dtype=torch.int32)
    dist.all_reduce(flags)
    return [bool(flag) for flag in flags.tolist()]


def on_first_rank(action: Callable[[], Any]) -> None:
    """Run ``action`` on rank 0. What it says to the user, every rank raises, so that none waits.

    Raises:
        TokenkitError: the action's.
    """
    failure: list[TokenkitError | None] = [None]
    if dist.get_rank() == 0:
        try:
            action()
        except TokenkitError as error:
            failure = [error]
    dist.broadcast_object_list(failure, src=0, device=torch.device("cpu"))
    if failure[0] is not None:
        raise failure[0]


def build_profiler(config: Config, output_dir: Path) -> AbstractContextManager:
    """A torch profiler that writes a trace of a few steps, or a context that does nothing."""
    if not config.profiling.enable:
        return nullcontext()
    schedule = torch.profiler.schedule(
        wait=max(config.profiling.start_step - 1, 0),
        warmup=1,
        active=config.profiling.active_steps,
        repeat=1,
    )
    folder = output_dir / "profile"
    write = torch.profiler.tensorboard_trace_handler(str(folder), worker_name=f"rank{rank()}")

    def written(profiler: torch.profiler.profile) -> None:
        write(profiler)
        logger.info(f"trace of {config.profiling.active_steps} steps in {folder}; ui.perfetto.dev "
                    "shows its .json files")  # fmt: skip

    return torch.profiler.profile(schedule=schedule, on_trace_ready=written, with_stack=False)
