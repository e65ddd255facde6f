"""A run's student as a Hugging Face folder: kept, or for as long as it is needed."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from tokenkit.export.card import card, origin_of
from tokenkit.export.folder import save_hf_folder
from tokenkit.log import logger
from tokenkit.training.restore import load_run, merged_tensors
from tokenkit.training.student import student_rows


def export_run(
    run: Path,
    output: Path,
    step: int = -1,
    dtype: torch.dtype | None = None,
    *,
    name: str = "",
    base_model: str = "",
) -> int:
    """Write the student of a run's checkpoint with a model card; adapters are merged.

    Args:
        step: of the checkpoint (-1: the latest, 0: as the run started).
        dtype: of the weights; default the source model's own.
        name: of the model, in its card; default the folder's.
        base_model: hub id of the source, for the card, where it is a local folder.

    Returns:
        Number of tokens.

    Raises:
        CheckpointError: if ``run`` is no run or has no such checkpoint.
        TokenkitError: if ``output`` is taken.
    """
    config, source, student, tokenizers = load_run(run, step)
    rows = student_rows(source, tokenizers)
    backbone, inputs, outputs = merged_tensors(config, student, rows)
    toks = tokenizers.source, tokenizers.student
    expansion = student.vocabulary.expansion
    origin = origin_of(run, step, config, source, tokenizers.student, base_model)
    readme = card(name or output.name, origin)
    save_hf_folder(source, backbone, inputs, outputs, *toks, output, dtype, expansion, readme)
    return len(tokenizers.student)


@contextmanager
def opened_model(name: str, step: int = -1) -> Iterator[str]:
    """A model folder or hub id as it is; a run not yet exported as a folder that lasts the block.

    Raises:
        CheckpointError: if ``name`` is a run without such a checkpoint.
    """
    path = Path(name)
    if not (path / "config.toml").is_file() or (path / "config.json").is_file():
        yield name
        return
    with tempfile.TemporaryDirectory(prefix="tokenkit-") as folder:
        output = Path(folder) / path.resolve().name
        logger.info(f"{name} is a run: its student is exported for the time being")
        export_run(path, output, step)
        yield str(output)
