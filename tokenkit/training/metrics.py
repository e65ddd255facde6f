"""What a person sees of a run: step lines, a progress bar, TensorBoard and ``metrics.jsonl``."""

from __future__ import annotations

import json
import resource
import sys
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

import torch
import torch.distributed as dist
from torch import Tensor
from tqdm.auto import tqdm

from tokenkit.config import Config
from tokenkit.log import logger
from tokenkit.models.flops import StepFlops
from tokenkit.training.throughput import Clock, peak_flops, speed

COLORS = {
    "step": 36, "loss": 32, "tok/s": 34, "mfu": 35, "mem": 33, "lr": 90, "grad": 90, "skipped": 31,
}  # fmt: skip
NOTABLE_WAIT = 0.05  # share of the time spent waiting for data that is worth a word
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
        self.writer: Any = None
        self.bar = None
        if not self.active:
            return
        self.file = open_lines(output_dir / "metrics.jsonl")
        if self.config.tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            folder = str(output_dir / "tensorboard")
            self.writer = SummaryWriter(folder, purge_step=start_step + 1)
            self.text("config", f"```toml\n{(output_dir / 'config.toml').read_text()}\n```", 0)
        if self.config.progress:
            self.bar = tqdm(
                total=self.steps,
                initial=start_step,
                desc="training",
                unit="step",
                dynamic_ncols=True,
            )

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
                f"{short:.0%} of the first step's rows are cut at training.max_student_length = "
                f"{self.training.max_student_length} where the teacher reads on to "
                f"training.max_teacher_length = {self.training.max_teacher_length}: raise the "
                "former (a student that reads bytes needs about four times the teacher's)"
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
        if self.active:
            self._line(step, metrics)
            self._write(step, metrics)

    def log_evaluation(self, step: int, metrics: dict[str, float]) -> None:
        """Log validation results."""
        if self.active:
            shown = "  ".join(f"{name} {value:.4f}" for name, value in metrics.items())
            self._say(self._paint("step", f"step {step}") + "  " + self._paint("loss", shown))
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

    def text(self, name: str, text: str, step: int) -> None:
        """Show a text in TensorBoard (the resolved config, samples)."""
        if self.active and self.writer is not None:
            self.writer.add_text(name, text, step)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
        if self.writer is not None:
            self.writer.close()
        if self.active:
            self.file.close()

    def _paint(self, name: str, text: str) -> str:
        if not self.config.color or not sys.stderr.isatty():
            return text
        return f"\033[{COLORS[name]}m{text}\033[0m"

    def _say(self, line: str) -> None:
        if self.bar is not None:
            with self.bar.external_write_mode(file=sys.stderr):
                logger.info(line)
        else:
            logger.info(line)

    def _line(self, step: int, metrics: dict[str, float]) -> None:
        terms = [
            f"{name.removeprefix('loss/')} {value:.4f}"
            for name, value in metrics.items()
            if name.startswith("loss/")
        ]
        parts = [
            self._paint("step", f"step {step:>5}"),
            self._paint("loss", f"loss {metrics['loss']:.4f} ({', '.join(terms)})"),
            self._paint("grad", f"grad {metrics['grad_norm']:.3f}"),
            self._paint("lr", f"lr {metrics['lr']:.2e}"),
            self._paint("tok/s", f"{metrics['tokens_per_second']:,.0f} tok/s"),
            self._paint("mem", f"{metrics['memory_gib']:.2f} GiB"),
        ]
        if metrics.get("skipped_steps"):
            parts.append(self._paint("skipped", f"skipped {metrics['skipped_steps']:.0f}"))
        if "mfu" in metrics:
            parts.append(self._paint("mfu", f"mfu {metrics['mfu']:.1%}"))
        if metrics["data_wait"] > NOTABLE_WAIT:
            parts.append(self._paint("skipped", f"waited for data {metrics['data_wait']:.0%}"))
        self._say("  ".join(parts))

    def _write(self, step: int, metrics: dict[str, float]) -> None:
        self.file.write(json.dumps({"step": step, **metrics}) + "\n")
        self.file.flush()
        if self.writer is not None:
            for name, value in metrics.items():
                self.writer.add_scalar(name, value, step)
