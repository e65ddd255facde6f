"""What a person sees of a run: step lines, a progress bar, charts and ``metrics.jsonl``."""

from __future__ import annotations

import json
import resource
import sys
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TextIO

import torch
import torch.distributed as dist
from torch import Tensor
from tqdm.auto import tqdm

from tokenkit.config import Config
from tokenkit.log import logger
from tokenkit.models.flops import StepFlops
from tokenkit.training.charts import open_boards
from tokenkit.training.lines import Lines, TimeLeft
from tokenkit.training.throughput import Clock, peak_flops, speed

NOTABLE = 0.1  # share of rows cut for the student alone that is worth a warning


def reduce_metrics(metrics: dict[str, Tensor], group: dist.ProcessGroup) -> dict[str, float]:
    """Sum each rank's share over ``group``; entries under ``same/`` are taken as they are."""
    if not metrics:
        return {}
    names = sorted(metrics)
    values = torch.stack([metrics[name].float() for name in names])
    total = values.clone()
    dist.all_reduce(total, group=group)
    same = torch.tensor([name.startswith("same/") for name in names], device=values.device)
    values = torch.where(same, values, total).tolist()
    return {name.removeprefix("same/"): value for name, value in zip(names, values, strict=True)}


def memory_gib(device: torch.device) -> float:
    """Peak memory so far: of the GPU, or of this process on CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device) / 2**30
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**30 if sys.platform == "darwin" else 2**20)


def cut_shares(counts: Mapping[str, float]) -> dict[str, float]:
    """Shares of rows that were cut at all, and cut for the student where the teacher reads on."""
    rows = counts.get("rows", 0)
    if not rows:
        return {}
    return {
        "data/cut_share": counts.get("truncated_rows", 0) / rows,
        "data/short_share": counts.get("short_rows", 0) / rows,
    }


def padding_shares(counts: Mapping[str, float]) -> dict[str, float]:
    """Share of each side's places that hold no token."""
    return {
        f"padding/{side}": 1.0 - counts.get(f"{side}_tokens", 0.0) / counts[f"{side}_places"]
        for side in ("student", "teacher")
        if counts.get(f"{side}_places")
    }


def compiled_graphs() -> int:
    """Graphs that torch.compile has made in this process; a growing number means lost time."""
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


def open_lines(path: Path) -> TextIO:
    """A file to append lines to; half a line that an earlier life left at its end goes."""
    file = open(path, "a+")  # noqa: SIM115 (closed by who asked)
    whole = path.read_bytes().rfind(b"\n") + 1
    file.truncate(whole)
    return file


class MetricsLogger:
    """Writes on rank 0; silent elsewhere.

    Args:
        flops: of the run's steps, for MFU and HFU.
    """

    def __init__(
        self,
        config: Config,
        output_dir: Path,
        start_step: int,
        device: torch.device,
        flops: StepFlops,
    ) -> None:
        self.config, self.steps = config.metrics, config.training.steps
        self.training, self.start_step = config.training, start_step
        self.device, self.flops, self.clock = device, flops, Clock()
        self.world = dist.get_world_size()
        self.active = dist.get_rank() == 0
        self._stats: Counter[str] = Counter()
        self.compiles = config.compile.enable
        self.bar = None
        if not self.active:
            return
        self.lines, self.left = Lines(self.config.color), TimeLeft(self.steps)
        self.file = open_lines(output_dir / "metrics.jsonl")
        self.boards = open_boards(config, output_dir, start_step)

    def __enter__(self) -> MetricsLogger:
        """The steps begin."""
        # In a file or another program's window, each turn of a bar would be a line.
        if self.active and self.config.progress and sys.stderr.isatty():
            self.bar = tqdm(
                total=self.steps,
                initial=self.start_step,
                desc="training",
                disable=False,
                unit="step",
                dynamic_ncols=True,
            )
        return self

    def __exit__(self, *_exception: object) -> None:
        """Close all that is open; the bar, so that an error has a line of its own."""
        if not self.active:
            return
        if self.bar is not None:
            self.bar.close()
        for board in self.boards:
            board.close()
        self.file.close()

    def record(
        self,
        step: int,
        metrics: dict[str, Tensor],
        stats: dict[str, int],
        lr: float,
        group: dist.ProcessGroup,
    ) -> None:
        """Count a step; every ``metrics.log_interval`` steps (and at the last) log it.

        ``stats`` are the counts of its batch. Between logging steps nothing is copied from the
        device or between ranks.
        """
        if self.bar is not None:
            self.bar.update()
        self._stats.update(stats)
        if step == self.start_step + 1:
            self._check_lengths(stats)
            if self.active:
                self.left.note(step)  # the first step took longer than others will
        if step % self.config.log_interval and step != self.steps:
            return
        shares = {f"stats/{k}": torch.tensor(float(v)) for k, v in sorted(self._stats.items())}
        self._stats.clear()
        on_device = {name: value.to(self.device) for name, value in shares.items()}
        values = reduce_metrics({**metrics, **on_device}, group)
        counts = {k.removeprefix("stats/"): values.pop(k) for k in shares}
        shares = {**self._alignment(counts), **cut_shares(counts), **padding_shares(counts)}
        shares |= {f"data/{k}": counts[k] for k in ("bad_rows",) if counts.get(k)}
        self._log(step, {**values, "lr": lr, **shares}, counts)

    def _check_lengths(self, stats: dict[str, int]) -> None:
        """Say so at the start if many rows end too early for the student."""
        short = cut_shares(stats).get("data/short_share", 0.0)
        if self.active and short > NOTABLE:
            logger.warning(
                f"{short:.0%} of the first step's rows end sooner for the student "
                f"(training.max_student_length = {self.training.max_student_length}) than for the "
                f"teacher (max_teacher_length = {self.training.max_teacher_length}), whose tokens "
                "hold more text: raise the former to use it all (bytes: about four times)"
            )

    def _alignment(self, counts: dict[str, float]) -> dict[str, float]:
        """Shares of tokens in chunks; a run that aligns less than half says so loudly."""
        shares = {}
        for side in ("teacher", "student"):
            total = counts.get(f"{side}_tokens", 0.0)
            if total and f"{side}_aligned" in counts:
                shares[f"alignment/{side}_share"] = counts[f"{side}_aligned"] / total
        if shares:
            shares["alignment/mismatched_rows"] = counts.get("mismatched_rows", 0.0)
        low = min((v for k, v in shares.items() if k.endswith("_share")), default=1.0)
        if self.active and low < 0.5:
            logger.warning(
                f"ONLY {low:.0%} OF TOKENS FALL IN ALIGNED CHUNKS: teacher and student see "
                "different text (chat templates, normalisers or truncation lengths differ?)"
            )
        return shares

    def _log(self, step: int, metrics: dict[str, float], counts: dict[str, float]) -> None:
        peak = peak_flops(self.device, self.training.dtype)
        metrics |= speed(self.flops, counts, *self.clock.read(), self.world, peak)
        metrics["memory_gib"] = memory_gib(self.device)
        if self.compiles:
            metrics["compile/graphs"] = float(compiled_graphs())
        if self.active:
            self.left.note(step)
            logger.info(self.lines.step(step, metrics, self.left.seconds()))
            self._write(step, metrics)

    def log_evaluation(self, step: int, metrics: dict[str, float]) -> None:
        """Log validation results."""
        if self.active:
            logger.info(self.lines.evaluation(step, metrics))
            self._write(step, metrics)

    def has_evaluation(self, step: int) -> bool:
        """Whether an earlier life has logged the validation results of a step; False off rank 0."""
        if not self.active:
            return False
        for line in Path(self.file.name).read_text(errors="replace").splitlines():
            with suppress(ValueError, KeyError, TypeError):  # whoever wrote such a line
                entry = json.loads(line)
                if entry["step"] == step and "loss" not in entry:
                    return True
        return False

    def _write(self, step: int, metrics: dict[str, float]) -> None:
        self.file.write(json.dumps({"step": step, **metrics}) + "\n")
        self.file.flush()
        for board in self.boards:
            board.scalars(step, metrics)
