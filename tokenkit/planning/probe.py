"""A few real steps on this machine, to set the planner's estimates right."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tokenkit.config import Config
from tokenkit.config.load import save_config
from tokenkit.errors import ConfigError
from tokenkit.shipped import train_program

WARM_UP = 2
LAUNCHER = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK")


@dataclass(frozen=True)
class Probe:
    """What was measured on one device.

    Attributes:
        tokens_per_second: of the student.
        memory_gib: the peak.
        efficiency: hardware FLOP/s as a share of the card's peak; None on a CPU.
    """

    tokens_per_second: float
    memory_gib: float
    efficiency: float | None


def probe_config(config: Config, folder: Path, steps: int) -> Config:
    """One rank's micro-batches of a run, in a folder of their own: two of them, if it has so many,
    so that gradients are balanced as they will be."""
    made = config.copy()
    micro = made.training.micro_batch_size
    made.training.batch_size = micro * min(2, max(1, made.training.batch_size // micro))
    made.training.steps = WARM_UP + steps
    made.lr_scheduler.warmup_steps = 0
    layout = made.parallelism
    layout.data_parallel_replicate_degree = layout.tensor_parallel_degree = 1
    layout.data_parallel_shard_degree = -1
    layout.context_parallel_degree, layout.sequence_parallel = 1, False
    made.teacher.parallelism = type(made.teacher.parallelism)()
    made.job.output_dir = str(folder / "run")
    made.checkpoint.enable = False
    made.eval.interval, made.eval.tasks, made.profiling.enable = 0, [], False
    made.metrics.log_interval = 1
    made.metrics.tensorboard = made.metrics.progress = False
    return made


def run_probe(config: Config, steps: int) -> Probe:
    """Train ``WARM_UP + steps`` steps in a process of its own, on one device of this machine.

    Raises:
        ConfigError: with what train.py says, if it fails.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made = probe_config(config, folder, steps)
        save_config(made, folder / "probe.toml")
        command = [sys.executable, str(train_program()), "--job.config_file"]
        environment = {k: v for k, v in os.environ.items() if k not in LAUNCHER}
        done = subprocess.run(
            [*command, str(folder / "probe.toml")], capture_output=True, text=True, env=environment
        )
        if done.returncode:
            said = [line for line in done.stderr.splitlines() if line.strip()]
            raise ConfigError(f"--probe-steps {steps}: {said[-1] if said else 'train.py failed'}")
        lines = (folder / "run" / "metrics.jsonl").read_text().splitlines()
    logged = [json.loads(line) for line in lines][WARM_UP:]
    rates = sorted(entry["tokens_per_second"] for entry in logged)
    shares = sorted(entry["hfu"] for entry in logged if "hfu" in entry)
    return Probe(
        rates[len(rates) // 2],
        max(entry["memory_gib"] for entry in logged),
        shares[len(shares) // 2] if shares else None,
    )
