"""Where curves of a run are drawn: TensorBoard, and Weights & Biases.

Both sort charts by name; numbered groups bring them into the order in which a person looks.
"""

from __future__ import annotations

import re
import uuid
from pathlib import Path
from typing import Any, Protocol

from tokenkit.config import Config, config_tables
from tokenkit.extras import missing
from tokenkit.io import new_file
from tokenkit.log import logger
from tokenkit.training.run_directory import flatten

# Groups of charts by the beginnings of metrics' names.
GROUPS = {
    "1-train/": ("loss",),  # above all others
    "1-train/update/": ("grad_norm", "lr", "skipped"),
    "2-validation/": ("validation/", "eval/", "gap_closed/", "teacher/"),
    "3-alignment/": ("alignment/", "data/", "padding/"),
    "4-speed/": (
        *("tokens_per_second", "teacher_tokens_per_second", "mfu", "hfu", "data_wait"),
        *("memory_gib", "compile/"),
    ),
    "5-details/": ("",),  # what losses and balances say beside
}
WANDB_ID = "wandb_id"  # file in the run's folder, so that a resumed run goes on in its charts
# What people compare runs by, though it be left at its default.
ALWAYS = ("optimizer.lr", "training.batch_size", "training.steps", "loss.names", "job.seed")
NO_CHOICE = (
    *("job.", "metrics.", "checkpoint.", "profiling.", "eval."),
    *("data.num_workers", "data.validation"),
)


def chart_of(name: str) -> str:
    """The chart of a metric: ``lr`` is ``1-train/update/lr``, ``mfu`` is ``4-speed/mfu``."""
    group = next(group for group, begins in GROUPS.items() if name.startswith(begins))
    return group + name.replace("validation/", "").removeprefix("alignment/")


def choices(config: Config) -> dict[str, Any]:
    """Settings that tell this run from another one: those that are not defaults, and a few more."""
    default = flatten(Config())
    return {
        key: ", ".join(map(str, value)) if isinstance(value, list) else value
        for key, value in flatten(config).items()
        if key in ALWAYS or (value != default.get(key) and not key.startswith(NO_CHOICE))
    }


class Board(Protocol):
    """Something that draws curves."""

    def scalars(self, step: int, metrics: dict[str, float]) -> None: ...

    def close(self) -> None: ...


def open_boards(config: Config, output_dir: Path, start_step: int) -> list[Board]:
    """Those that ``[metrics]`` asks for; on one rank only."""
    boards: list[Board] = []
    if config.metrics.tensorboard and (problem := missing("tensorboard")):
        logger.warning(f"metrics.tensorboard: {problem}; metrics.jsonl is written all the same")
    elif config.metrics.tensorboard:
        boards.append(TensorBoard(config, output_dir, start_step))
    if config.metrics.wandb:
        boards.append(WeightsAndBiases(config, output_dir))
    return boards


class TensorBoard:
    """Event files in ``tensorboard/NAME``, where TensorBoard takes the run's name from."""

    def __init__(self, config: Config, output_dir: Path, start_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter
        from torch.utils.tensorboard.summary import hparams

        folder = output_dir / "tensorboard" / re.sub(r"[^\w.-]", "_", config.job.name)
        # What a dead life had logged behind its last checkpoint is not shown.
        self.writer = SummaryWriter(str(folder), purge_step=start_step + 1)
        text = (output_dir / "config.toml").read_text(encoding="utf-8")
        self.writer.add_text("config", f"```toml\n{text}\n```", 0)
        shown = ["loss"] + ["validation/bits_per_byte"] * bool(config.eval.interval)
        # ``add_hparams`` would show them as a second run.
        *begin, self._end = hparams(choices(config), {chart_of(name): 0 for name in shown})
        for summary in begin:
            self.writer.file_writer.add_summary(summary)

    def scalars(self, step: int, metrics: dict[str, float]) -> None:
        """Add a point to each metric's chart."""
        for name, value in metrics.items():
            self.writer.add_scalar(chart_of(name), value, step)

    def close(self) -> None:
        self.writer.file_writer.add_summary(self._end)
        self.writer.close()


class WeightsAndBiases:
    """A run of the project ``metrics.wandb``; the package is there, ``validate`` has looked."""

    def __init__(self, config: Config, output_dir: Path) -> None:
        import wandb

        file = output_dir / WANDB_ID
        if not file.is_file():
            with new_file(file) as opened:
                opened.write(uuid.uuid4().hex[:12])
        self.run = wandb.init(
            project=config.metrics.wandb,
            name=config.job.name,
            id=file.read_text(encoding="utf-8"),
            resume="allow",
            dir=str(output_dir),
            config=config_tables(config),
        )

    def scalars(self, step: int, metrics: dict[str, float]) -> None:
        """Log a step; one that a dead life has logged stays as it was (they only go forward)."""
        self.run.log({chart_of(name): value for name, value in metrics.items()}, step=step)

    def close(self) -> None:
        self.run.finish()
