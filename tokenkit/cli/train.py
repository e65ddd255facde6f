"""Train: the program of ``train.py``, as ``python train.py`` runs it."""

from __future__ import annotations

import runpy

from tokenkit.shipped import train_program


def main() -> None:
    runpy.run_path(str(train_program()), run_name="__main__")
