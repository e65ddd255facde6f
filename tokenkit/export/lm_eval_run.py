"""The model ``tokenkit`` of lm-eval, as lm-eval itself finds it: runs can be opened, too."""

from __future__ import annotations

from typing import Any

from tokenkit.evaluation.lm_eval_model import TokenkitLM
from tokenkit.export.run import opened_model


class RunLM(TokenkitLM):
    """A folder, a hub id, or the student of a run not yet exported.

    Args:
        step: of the run's checkpoint (-1: the latest, 0: as it started).
        options: see :class:`TokenkitLM`.

    Raises:
        TokenkitError: if the model cannot be opened.
    """

    def __init__(self, pretrained: str, *, step: int = -1, **options: Any) -> None:
        with opened_model(pretrained, step) as folder:
            super().__init__(folder, **options)
            if folder != pretrained:
                _ = self.tok  # read while there is a folder
        self.model.config._name_or_path = pretrained
