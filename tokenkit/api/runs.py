"""A run of ``train.py`` as objects."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenkit.config import Config
from tokenkit.errors import CheckpointError
from tokenkit.export.run import export_run
from tokenkit.models.causal_lm import CausalLM
from tokenkit.tokenizers import ByteifiedTokenizer
from tokenkit.training.restore import load_run as restore


@dataclass(frozen=True)
class Run:
    """A finished or interrupted run.

    Attributes:
        folder: its output directory.
        step: the checkpoint asked for (-1: the latest).
        config: its settings, a section each: ``run.config.training.steps``.
        student: backbone and vocabulary on the CPU, an ``nn.Module``; called with a
            ``tokenkit.batch.Sequences``.
        tokenizer: the student's.
        source_tokenizer: that of the model it was made from.
        metrics: what was logged, a dictionary for each line: ``step``, ``loss`` and more.
    """

    folder: Path
    step: int
    config: Config
    student: CausalLM
    tokenizer: ByteifiedTokenizer
    source_tokenizer: ByteifiedTokenizer
    metrics: list[dict[str, Any]]

    def __repr__(self) -> str:
        at = "its latest checkpoint" if self.step == -1 else f"step {self.step}"
        size = sum(parameter.numel() for parameter in self.student.parameters())
        spec = self.tokenizer.spec
        return f"Run('{self.folder}', {at}, {size:,} parameters, tokenizer '{spec}')"

    def export(self, output: str | Path) -> Path:
        """Write a folder that plain ``transformers`` loads; adapters are merged.

        Raises:
            TokenkitError: if ``output`` is taken.
        """
        export_run(self.folder, Path(output), self.step)
        return Path(output)


def load_run(folder: str | Path, step: int = -1) -> Run:
    """A run's settings, student, tokenizers and metrics.

    Args:
        folder: the output directory.
        step: of the checkpoint (-1: the latest, 0: as it started).

    Returns:
        A :class:`Run`.

    Raises:
        CheckpointError: if the folder is no run, or has no such checkpoint, or a damaged one.
    """
    path = Path(folder)
    config, _, student, tokenizers = restore(path, step)
    return Run(
        path, step, config, student, tokenizers.student, tokenizers.source, read_metrics(path)
    )


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """What ``metrics.jsonl`` holds, by line; a line that a run was killed in is left out.

    Raises:
        CheckpointError: if another line is no JSON.
    """
    file = folder / "metrics.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    found = []
    for number, line in enumerate(lines, 1):
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            if number < len(lines):
                raise CheckpointError(f"{file}:{number}: not JSON; is the disk damaged?") from None
    return found
